"""What a run is to do: what a user chose, the docs of its cards, and the docs' tokens, made once for many models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.card import Card, Row
from evals.core.errors import RowUnavailable, UserError
from evals.core.requests import Backend, GenerateRequest, ScoreRequest
from evals.data.sources import SMOKE_BUDGET, Source, TaskData, build_docs, load

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from tasks.common.builders import CardTask

T = TypeVar("T")
Kept = dict[tuple[str, bool, str], dict[int, tuple["Doc", Any]]]


@dataclass(frozen=True)
class Settings:
    """What a user chose, beside the model and the suite. `references`: reference answers are scored as well."""

    source: Source
    tasks: list[str] | None = None
    limit: int | None = None
    variants: list[str] = field(default_factory=list)
    output: Path = Path("results")
    fresh: bool = False
    references: bool = False


@dataclass(frozen=True)
class Work:
    """One card's docs, ready to run. `docs` and `data` have no entry for a task whose data cannot be had.

    `references`: of generative tasks that have them and where they are asked for, the docs with the reference answer
    as the only choice.
    """

    card: Card
    rows: tuple[Row, ...]
    docs: dict[str, list[Doc]]
    data: dict[str, TaskData]
    missing: dict[str, str]
    references: dict[str, list[Doc]]

    def first(self, counts: Mapping[str, int], why: str) -> Work:
        """Of each task the first docs, so many; `why` the others are missing."""
        docs, references = (
            {name: every[: counts[name]] for name, every in some.items() if counts.get(name)}
            for some in (self.docs, self.references)
        )
        skipped = {name: why for name in self.docs if name not in docs}
        return replace(self, docs=docs, references=references, missing={**self.missing, **skipped})


def prepare(cards: Sequence[Card], settings: Settings) -> list[Work]:
    """Loads and checks the data of all cards, before any model is loaded.

    Raises UserError when data is wrong, or when not a single row can be had.
    """
    from tasks import get_task

    loaded: dict[str, TaskData] = {}
    missing: dict[str, str] = {}
    works = []
    for card in cards:
        rows, budgets = card.select(settings.tasks), card.budgets(settings.variants)
        docs: dict[str, list[Doc]] = {}
        for task in (get_task(name) for row in rows for name in row.tasks if name not in missing):
            try:
                if task.name not in loaded:
                    loaded[task.name] = load(task, settings.source)
                docs[task.name] = _docs(task, loaded[task.name], settings, budgets.get(task.name))
            except RowUnavailable as error:
                missing[task.name] = str(error)
        references = _references(docs) if settings.references else {}
        data = {name: loaded[name] for name in docs}
        works.append(Work(card, rows, docs, data, dict(missing), references))
    if not any(work.docs for work in works):
        raise UserError(next(iter(missing.values()), "no row was asked for"))
    return works


def _docs(task: CardTask, data: TaskData, settings: Settings, budget: int | None) -> list[Doc]:
    """Docs that can be scored here: that is tried with a made-up answer, before a model works for hours."""
    from lighteval.models.model_output import ModelResponse

    from tasks.common.metrics import score

    with _scoring(task):
        if task.ready is not None:
            task.ready()
    docs = build_docs(task, data, settings.limit)
    for doc in docs:
        if budget is not None and doc.generation_size is not None:
            doc.generation_size = budget
        if settings.source.kind == "smoke":
            doc.generation_size = min(doc.generation_size or SMOKE_BUDGET, SMOKE_BUDGET)
    zeros = [0.0 for _ in docs[0].choices]
    tokens = [[0] for _ in docs[0].choices]
    made_up = ModelResponse(
        text=["Ready."], logprobs=zeros, unconditioned_logprobs=zeros, output_tokens=tokens
    )
    with _scoring(task):
        score(task, docs[0], made_up)
    return docs


@contextmanager
def _scoring(task: CardTask) -> Iterator[None]:
    """Around what scoring needs: the row is not to be had if it fails."""
    try:
        yield
    except (
        Exception
    ) as error:  # a package that is missing, half installed or another version fails in any way
        raise RowUnavailable(
            f"'{task.name}' cannot be scored here ({named(error)}): are all dependencies of this project installed?"
        ) from error


def named(error: Exception) -> str:
    """An error of other people's code, in a line."""
    return f"{type(error).__name__}: {str(error)[:200]}"


def _references(docs: Mapping[str, Sequence[Doc]]) -> dict[str, list[Doc]]:
    """The docs of the tasks that have reference answers, each with its own as the only choice."""
    from tasks import get_task

    found = {name: get_task(name).reference for name in docs}
    return {
        name: [replace(doc, choices=[reference(doc)], gold_index=0) for doc in docs[name]]
        for name, reference in found.items()
        if reference is not None
    }


class Remembering:
    """A back end (evals/core/requests.py) that asks another one, and a memory first.

    The memory: requests by tokenizer, mode and kind, and of each doc; docs are kept, so that none can be mistaken.
    """

    def __init__(self, adapter: Backend, kept: Kept, tokenizer: str) -> None:
        self._adapter, self._kept, self._tokenizer = adapter, kept, tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def score_requests(self, docs: Sequence[Doc]) -> Sequence[Sequence[ScoreRequest]]:
        """See Backend."""
        return self._look_up("score", docs, self._adapter.score_requests)

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """See Backend; a conversation's next turn is this model's own and is not kept."""
        if any((doc.specific or {}).get("conversation") for doc in docs):
            return list(self._adapter.generate_requests(docs))
        return self._look_up("generate", docs, self._adapter.generate_requests)

    def _look_up(
        self, kind: str, docs: Sequence[Doc], make: Callable[[Sequence[Doc]], Sequence[T]]
    ) -> list[T]:
        kept = self._kept.setdefault((self._tokenizer, self.chat, kind), {})
        new = [doc for doc in docs if id(doc) not in kept]
        kept.update((id(doc), (doc, made)) for doc, made in zip(new, make(new) if new else [], strict=True))
        return [kept[id(doc)][1] for doc in docs]


def remembering(adapter: Any, kept: Kept) -> Any:
    """The adapter with this memory before it; as it is when its tokenizer cannot be compared."""
    key = tokenizer_key(adapter.tokenizer)
    return adapter if key is None else Remembering(adapter, kept, key)


def tokenizer_key(tokenizer: Any) -> str | None:
    """Equal for tokenizers that make the same tokens of the same docs; None where that cannot be told."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = (type(tokenizer).__name__, backend.to_str(), repr(tokenizer.chat_template))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
