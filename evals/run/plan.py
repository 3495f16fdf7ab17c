"""What a run will cost, before it starts: requests, distinct tokens, and time by a short calibration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evals.core.requests import GenerateRequest, Request, ScoreRequest
from evals.run.shares import EXPECTED_OUTPUT, deal, distinct_tokens
from evals.run.store import Store, request_key

if TYPE_CHECKING:
    from evals.core.card import Row
    from evals.run.work import Work

SAMPLE_DOCS = 8  # of each row, to measure with
SAMPLE_ANSWERS = 32
SAMPLE_OUTPUT = 24  # tokens of each of those answers

Part = tuple[int, int, int]


@dataclass(frozen=True)
class RowPlan:
    """One row's work. ``requests`` are those that differ; ``tokens`` and ``output`` count those not ``stored``.

    ``tokens``: distinct tokens of prompts; ``output``: tokens to generate, as far as budgets tell. ``workers``: for
    each of several, its requests, tokens and output.
    """

    suite: str
    label: str
    docs: int
    requests: int
    stored: int
    tokens: int
    output: int
    workers: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Rates:
    """Tokens a second, read and generated, as measured with this model on this machine."""

    read: float
    generated: float

    def seconds(self, row: RowPlan) -> float:
        """How long a row will take."""
        return row.tokens / self.read + row.output / self.generated


def plan(
    works: Sequence[Work], adapters: Sequence[Any], store: Store | None, workers: int = 1, timed: bool = True
) -> tuple[list[RowPlan], Rates | None]:
    """Every row's work, and, if `timed`, the rates measured on a few docs of those not finished (nothing is stored)."""
    rows: list[RowPlan] = []
    sample: list[tuple[Any, Request]] = []
    for work, adapter in zip(works, adapters, strict=True):
        for row in work.rows:
            if groups := _requests(row, work, adapter):
                rows.append(_row_plan(work.card.name, row, groups, adapter, store, workers))
                if rows[-1].stored < rows[-1].requests:
                    sample += [(adapter, one) for group in groups[:SAMPLE_DOCS] for one in group]
    return rows, _measure(sample) if timed else None


def _requests(row: Row, work: Work, adapter: Any) -> list[list[Request]]:
    """A row's requests by doc; a conversation is counted by its first turn alone (see _row_plan)."""
    from tasks import get_task

    groups: list[list[Request]] = []
    for name in row.tasks:
        docs = work.docs.get(name, [])
        if get_task(name).asks_choices:
            groups += adapter.score_requests(docs)
        else:
            references = adapter.score_requests(work.references.get(name, [])) or [[]] * len(docs)
            asked = zip(adapter.generate_requests(docs), references, strict=True)
            groups += [[answer, *reference] for answer, reference in asked]
    return groups


def _row_plan(
    suite: str, row: Row, groups: Sequence[Sequence[Request]], adapter: Any, store: Store | None, workers: int
) -> RowPlan:
    from tasks import get_task

    unique = {request_key(adapter.identity, one): one for group in groups for one in group}
    stored = store.get(list(unique)) if store is not None else {}
    todo = [one for key, one in unique.items() if key not in stored]
    twice = any(get_task(name).follow_up for name in row.tasks)
    parts: tuple[Part, ...] = ()
    if workers > 1:
        shares = deal(todo, workers, adapter.at_a_time // workers)
        parts = tuple((len(share), *_work([todo[i] for i in share], twice)) for share in shares)
    return RowPlan(suite, row.label, len(groups), len(unique), len(stored), *_work(todo, twice), parts)


def _work(requests: Sequence[Request], twice: bool) -> tuple[int, int]:
    """Distinct tokens of prompts, and tokens to generate; `twice`: a conversation of two turns."""
    answers = (one for one in requests if isinstance(one, GenerateRequest))
    output = sum(min(one.max_new_tokens, EXPECTED_OUTPUT) for one in answers)
    tokens = distinct_tokens(requests)
    if twice:
        # the second turn reads its question and the first answer (the rest is what the first turn read)
        tokens, output = 2 * tokens + output, 2 * output
    return tokens, output


def _measure(sample: Sequence[tuple[Any, Request]]) -> Rates:
    """Rates by a few requests of each kind, after a smaller warm-up."""
    scores = [pair for pair in sample if isinstance(pair[1], ScoreRequest)]
    short = [
        (adapter, replace(one, max_new_tokens=min(one.max_new_tokens, SAMPLE_OUTPUT), stops=()))
        for adapter, one in sample
        if isinstance(one, GenerateRequest)
    ]
    short = short[:: max(1, len(short) // SAMPLE_ANSWERS)]
    read, generated = 0.0, 0.0
    if scores:
        _run(scores[: len(scores) // 8 + 1])
        seconds, tokens, _ = _run(scores)
        read = tokens / seconds
    if short:
        _run(short[:1])
        seconds, tokens, output = _run(short)
        if read:  # what reading the prompts took is known
            seconds = max(seconds - tokens / read, seconds / 5)
        generated = max(output, 1) / seconds
    return Rates(read or generated or 1.0, generated or read or 1.0)


def _run(sample: Sequence[tuple[Any, Request]]) -> tuple[float, int, int]:
    """(seconds, distinct tokens read, tokens generated) of a sample, adapter by adapter."""
    seconds, tokens, output = 1e-9, 0, 0
    for adapter in {id(a): a for a, _ in sample}.values():
        requests = [request for owner, request in sample if owner is adapter]
        start = time.monotonic()
        for _, result in adapter.run(requests):
            output += len(getattr(result, "tokens", ()))
        seconds += time.monotonic() - start
        tokens += distinct_tokens(requests)
    return seconds, tokens, output
