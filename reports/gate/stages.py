"""An early gate: rows are measured in growing batches, and each only until its verdict is sure.

Rows with the most power for their price come first: scored ones, then generated ones, then those that cannot show what
the policy allows, which get one short look. All rows of a kind get a first look; then each is looked at, with more
docs each time, until it is decided. The tests hold however often one looks (betting.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from reports.gate.evidence import Evidence
from reports.gate.planning import Planned
from reports.gate.policy import Policy
from reports.gate.verdict import INCONCLUSIVE, OPEN, REGRESSION, RowGate, judge
from reports.significance import MEAN

FIRST_LOOK = 128
LEAST, MOST = 1.15, 2.0
"""How many times the docs the next look has: as many as it takes if the stakes go on to grow as they did."""
SURE = "not needed: the gate's verdict was sure before"

Measure = Callable[[str, int], Evidence | None]
"""Measures a row's first docs, so many of all its tasks together; None: it cannot be had."""


def run_stages(
    plan: Mapping[str, Planned],
    measure: Measure,
    policy: Policy,
    on_look: Callable[[RowGate], None] = lambda row: None,
) -> dict[str, RowGate]:
    """The verdict on each row of the plan; those that could not be had are left out. `on_look` is told of each look."""
    found: dict[str, Evidence] = {}
    seconds: dict[str, float] = {}
    rows: dict[str, RowGate] = {}
    for planned, docs in _looks(plan, rows, seconds):
        start = time.monotonic()
        one = measure(planned.label, min(docs, planned.docs))
        seconds[planned.label] = time.monotonic() - start
        if one is not None:
            found[planned.label] = one
            rows.update(judge(plan, found, policy))
            on_look(rows[planned.label])
        if _stopped(rows):
            break
    return _all(plan, rows, set(seconds))


def _looks(
    plan: Mapping[str, Planned], rows: Mapping[str, RowGate], seconds: Mapping[str, float]
) -> Iterator[tuple[Planned, int]]:
    """Which row to look at next, and at how many docs; `rows` and `seconds`: what came of the looks before."""
    for group in _groups(plan):
        for planned in group:
            yield planned, FIRST_LOOK // 4 if planned.blind else FIRST_LOOK
        pending = [one for one in group if one.label in rows and rows[one.label].verdict == OPEN]
        for planned in sorted(pending, key=lambda one: seconds[one.label] * _noisy(one) ** 2):
            docs = FIRST_LOOK
            while docs < planned.docs and rows[planned.label].verdict == OPEN:
                docs = _next(docs, rows[planned.label])
                yield planned, docs


def _next(docs: int, row: RowGate) -> int:
    return math.ceil(docs * min(MOST, max(LEAST, 1 / max(row.progress, 1e-9))))


def _stopped(rows: Mapping[str, RowGate]) -> bool:
    return any(row.verdict == REGRESSION and row.counts for row in rows.values())


def _noisy(planned: Planned) -> float:
    """A row's noise in units of what it may lose: its square is about the docs that a verdict takes."""
    return planned.noise(planned.expected) / max(planned.allowed, 1e-9)


def _groups(plan: Mapping[str, Planned]) -> list[list[Planned]]:
    rows = sorted((one for one in plan.values() if one.label != MEAN), key=_noisy)
    decisive = [one for one in rows if one.tier == "critical"]
    scored = [one for one in decisive if one.scored]
    generated = [one for one in decisive if not one.scored]
    return [scored, generated, [one for one in rows if one not in decisive]]


def _all(plan: Mapping[str, Planned], rows: Mapping[str, RowGate], seen: set[str]) -> dict[str, RowGate]:
    """All rows of the plan in its order, with those that were not looked at or not to their end."""
    result, stopped = {}, _stopped(rows)
    for label, planned in plan.items():
        row = rows.get(label)
        if row is None and label not in seen and label != MEAN:
            result[label] = RowGate(label, planned, OPEN, SURE)
        elif row is not None:
            result[label] = _ended(row, stopped) if row.verdict == OPEN else row
    return result


def _ended(row: RowGate, stopped: bool) -> RowGate:
    """A row that is open at the end: not needed any more, or the runs do not share all its docs."""
    if stopped:
        return replace(row, reason=SURE)
    return replace(row, verdict=INCONCLUSIVE, reason="the runs do not share all its docs")
