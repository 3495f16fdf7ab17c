"""What is kept of each doc: the sample columns of results/README.md, as parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evals.core.requests import Generation, Score, ScoreRequest
from evals.prompting import text as prompts

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from tasks.common.builders import CardTask

Columns = dict[str, list[Any]]

_LIST_TYPES = {
    "choices": "string",
    "turns": "string",
    "reference": "string",
    "logprobs": "float64",
    "n_tokens": "int64",
    "inst_level_strict_acc": "int64",
    "inst_level_loose_acc": "int64",
}


def likelihood_columns(
    task: CardTask,
    docs: Sequence[Doc],
    chat: bool,
    requests: Sequence[Sequence[ScoreRequest]],
    scores: Sequence[Sequence[Score]],
) -> Columns:
    """One line a doc of a likelihood task. Raises ValueError, naming the doc, for a score that is not finite."""
    from lighteval.models.model_output import ModelResponse

    from tasks.common.metrics import predict, score

    columns = _common(docs, chat)
    columns["gold"] = [doc.gold_index for doc in docs]
    columns["choices"] = [list(doc.choices) for doc in docs]
    columns["logprobs"] = [[one.logprob for one in group] for group in scores]
    columns["n_tokens"] = [[request.n_continuation for request in group] for group in requests]
    columns["prediction"] = [predict(doc, sums) for doc, sums in zip(docs, columns["logprobs"], strict=True)]
    _add_scores(
        columns,
        [
            score(task, doc, ModelResponse(logprobs=sums))
            for doc, sums in zip(docs, columns["logprobs"], strict=True)
        ],
    )
    return columns


def generative_columns(
    task: CardTask, docs: Sequence[Doc], chat: bool, generations: Sequence[Generation]
) -> Columns:
    """One line a doc of a generative task."""
    from lighteval.models.model_output import ModelResponse

    from tasks.common.metrics import score

    columns = _common(docs, chat)
    columns["gold"] = [list(doc.choices) for doc in docs]
    columns["output"] = [one.text for one in generations]
    columns["n_output_tokens"] = [len(one.tokens) for one in generations]
    columns["finish"] = [one.finish for one in generations]
    _add_scores(
        columns,
        [
            score(task, doc, ModelResponse(text=[one.text]))
            for doc, one in zip(docs, generations, strict=True)
        ],
    )
    return columns


def conversation_columns(
    docs: Sequence[Doc], chat: bool, first: Sequence[Generation], second: Sequence[Generation]
) -> Columns:
    """One line a question of MT-Bench: both turns' answers, and what a judge needs."""
    columns = _common(docs, chat)
    specifics = [doc.specific or {} for doc in docs]
    columns["question_id"] = [specific["question_id"] for specific in specifics]
    columns["turns"] = [list(specific["turns"]) for specific in specifics]
    columns["reference"] = [list(specific["reference"]) for specific in specifics]
    for suffix, generations in (("", first), ("_turn_2", second)):
        columns[f"output{suffix}"] = [one.text for one in generations]
        columns[f"n_output_tokens{suffix}"] = [len(one.tokens) for one in generations]
        columns[f"finish{suffix}"] = [one.finish for one in generations]
    return columns


def _common(docs: Sequence[Doc], chat: bool) -> Columns:
    return {
        "doc_id": [int(doc.id) for doc in docs],
        "prompt_hash": [prompts.prompt_hash(doc, chat) for doc in docs],
        "prompt": [prompts.prompt_text(doc, chat) for doc in docs],
        "group": [(doc.specific or {}).get("group") for doc in docs],
    }


def _add_scores(columns: Columns, scores: Sequence[dict[str, Any]]) -> None:
    for name in scores[0] if scores else ():
        columns[name] = [one[name] for one in scores]


def to_parquet(columns: Columns) -> bytes:
    """The columns as a parquet file's content; types do not depend on what the values happen to be."""
    import pyarrow
    from pyarrow import parquet

    arrays = {}
    for name, values in columns.items():
        kind = None
        if name in _LIST_TYPES:
            kind = pyarrow.list_(pyarrow.type_for_alias(_LIST_TYPES[name]))
        elif name == "gold" and values and isinstance(values[0], list):
            kind = pyarrow.list_(pyarrow.string())
        elif name == "group":
            kind = pyarrow.string()
        if kind is None or "string" in str(kind):
            values = _clean(values)
        arrays[name] = pyarrow.array(values, type=kind)
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), buffer, compression="zstd")
    return buffer.getvalue()


def _clean(value: Any) -> Any:
    """Lone surrogates, which JSON can carry and UTF-8 cannot, become the replacement character."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value
