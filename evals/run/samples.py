"""What is kept of each doc: the sample columns of results/README.md, as parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.files import parquet_bytes, partial_folder, write_atomic, writing
from evals.core.metric import METRICS, UNCONDITIONED
from evals.core.requests import Generation, Score, ScoreRequest
from evals.prompting import text as prompts
from evals.prompting.requests import choice_response

if TYPE_CHECKING:
    import pyarrow
    from lighteval.tasks.requests import Doc

    from tasks.common.builders import CardTask

Columns = dict[str, list[Any]]
KEPT = ("gold", "choices", "logprobs", "n_tokens", UNCONDITIONED)
"""Of what a formula reads of a doc with choices."""


def likelihood_columns(
    task: CardTask,
    docs: Sequence[Doc],
    chat: bool,
    requests: Sequence[Sequence[ScoreRequest]],
    scores: Sequence[Sequence[Score]],
) -> Columns:
    """One line a doc of a likelihood task. Raises ValueError, naming the doc, for a score that is not finite."""
    from tasks.common.metrics import likelihood_line, prediction, score

    columns = _common(docs, chat)
    responses = [
        choice_response(doc, asked, [one.logprob for one in given])
        for doc, asked, given in zip(docs, requests, scores, strict=True)
    ]
    lines = [likelihood_line(doc, response) for doc, response in zip(docs, responses, strict=True)]
    columns |= _by_name([{name: line[name] for name in KEPT if name in line} for line in lines])
    columns["prediction"] = [prediction(task, line) for line in lines]
    scored = [score(task, *one) for one in zip(docs, responses, lines, strict=True)]
    return columns | _by_name(scored)


def generative_columns(
    task: CardTask,
    docs: Sequence[Doc],
    chat: bool,
    turns: Sequence[Sequence[Generation]],
    references: Sequence[tuple[ScoreRequest, Score]] = (),
) -> Columns:
    """One line a doc of a generative task: `turns` [n_turns][n_docs] answers, what the task keeps, and scores.

    `references`: the reference answers as they were scored, [n_docs]; none where they were not asked for.
    """
    from lighteval.models.model_output import ModelResponse

    from tasks.common.metrics import score

    columns = _common(docs, chat)
    for name in task.keep:
        columns[name] = [(doc.specific or {})[name] for doc in docs]
    columns["gold"] = [list(doc.choices) for doc in docs]
    for number, answers in enumerate(turns, start=1):
        suffix = "" if number == 1 else f"_turn_{number}"
        columns[f"output{suffix}"] = [one.text for one in answers]
        columns[f"n_output_tokens{suffix}"] = [len(one.tokens) for one in answers]
        columns[f"finish{suffix}"] = [one.finish for one in answers]
    if references:
        columns["reference_logprob"] = [score.logprob for _, score in references]
        columns["n_reference_tokens"] = [request.n_continuation for request, _ in references]
    responses = [ModelResponse(text=[one.text]) for one in turns[0]]
    return columns | _by_name([score(task, *pair) for pair in zip(docs, responses, strict=True)])


def _common(docs: Sequence[Doc], chat: bool) -> Columns:
    return {
        "doc_id": [int(doc.id) for doc in docs],
        "prompt_hash": [prompts.prompt_hash(doc, chat) for doc in docs],
        "prompt": [prompts.prompt_text(doc, chat) for doc in docs],
        "group": [(doc.specific or {}).get("group") for doc in docs],
    }


def _by_name(lines: Sequence[Mapping[str, Any]]) -> Columns:
    return {name: [line[name] for line in lines] for name in lines[0]}


def write(final: Path, columns: Mapping[str, Columns]) -> Path:
    """A new folder beside `final`, to be published under that name, with samples/TASK.parquet. Raises UserError."""
    partial = partial_folder(final)
    with writing(partial):
        (partial / "samples").mkdir()
    for name, values in columns.items():
        write_atomic(partial / "samples" / f"{name}.parquet", to_parquet(values))
    return partial


def to_parquet(columns: Columns) -> bytes:
    """The columns as a parquet file's content; types do not depend on what the values happen to be."""
    import pyarrow

    arrays = {name: pyarrow.array(_clean(values), _type(name, values)) for name, values in columns.items()}
    return parquet_bytes(pyarrow.table(arrays))


def _type(name: str, values: Sequence[Any]) -> pyarrow.DataType | None:
    """The arrow type of a column; None: its values tell (numbers and texts that are always there)."""
    import pyarrow

    metric = METRICS.get(name)
    if metric is not None:
        number = pyarrow.int64() if metric.binary else pyarrow.float64()
        return pyarrow.list_(number) if metric.shape == "items" else number
    if name == "group":
        return pyarrow.string()
    of_texts = name == "gold" and values and isinstance(values[0], list)
    if of_texts or name in ("choices", "turns", "reference", "item_names"):
        return pyarrow.list_(pyarrow.string())
    numbers = {"logprobs": pyarrow.float64(), UNCONDITIONED: pyarrow.float64(), "n_tokens": pyarrow.int64()}
    return pyarrow.list_(numbers[name]) if name in numbers else None


def _clean(value: Any) -> Any:
    """Lone surrogates, which JSON can carry and UTF-8 cannot, become the replacement character."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return [_clean(one) for one in value] if isinstance(value, list) else value
