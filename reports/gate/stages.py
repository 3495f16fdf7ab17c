"""An early gate: rows are measured in growing batches, and each only until its verdict is sure.

Rows with the most power for their price come first: scored ones, then generated ones, then those that cannot show what
the policy allows, which get one short look. All rows of a kind get a first look; then each is looked at, with more
docs each time, until it is decided. The tests hold however often one looks (betting.py).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from reports.gate.evidence import Evidence
from reports.gate.planning import Planned
from reports.gate.verdict import INCONCLUSIVE, OPEN, REGRESSION, RowGate, judge, progress
from reports.significance import MEAN

FIRST_LOOK = 128
LEAST, MOST = 1.15, 2.0
"""How many times the docs the next look has: as many as it takes if the stakes go on to grow as they did."""
SURE = "not needed: the gate's verdict was sure before"
NOT_SHARED = "the runs do not share all its docs"

Measure = Callable[[str, int], Evidence | None]
"""Measures a row's first docs, so many of all its tasks together; None: it cannot be had."""


def run_stages(
    plan: Mapping[str, Planned], measure: Measure, on_look: Callable[[RowGate], None] = lambda row: None
) -> dict[str, RowGate]:
    """The verdict on each row of the plan; those that could not be had are left out. `on_look` is told of each look."""
    found: dict[str, Evidence] = {}
    seconds: dict[str, float] = {}
    rows: dict[str, RowGate] = {}
    stopped = False
    for planned, docs in _looks(plan, found, rows, seconds):
        start = time.monotonic()
        one = measure(planned.label, min(docs, planned.docs))
        seconds[planned.label] = time.monotonic() - start
        if one is not None:
            found[planned.label] = one
            rows.update(judge(plan, found))
            on_look(rows[planned.label])
        stopped = any(row.verdict == REGRESSION and row.counts for row in rows.values())
        if stopped:
            break
    for label, planned in plan.items():
        if label not in seconds and label != MEAN:
            rows[label] = RowGate(label, planned, OPEN, SURE)
        elif label in rows and rows[label].verdict == OPEN:
            left = replace(rows[label], verdict=INCONCLUSIVE, reason=NOT_SHARED)
            rows[label] = replace(rows[label], reason=SURE) if stopped else left
    return {label: rows[label] for label in plan if label in rows}


def _looks(
    plan: Mapping[str, Planned],
    found: Mapping[str, Evidence],
    rows: Mapping[str, RowGate],
    seconds: Mapping[str, float],
) -> Iterator[tuple[Planned, int]]:
    """Which row to look at next, and at how many docs; the others: what came of the looks before."""
    ordered = sorted(
        (one for one in plan.values() if one.label != MEAN), key=lambda one: (_kind(one), _noisy(one))
    )
    for _, same_kind in itertools.groupby(ordered, _kind):
        group = list(same_kind)
        for planned in group:
            yield planned, FIRST_LOOK // 4 if planned.blind else FIRST_LOOK
        pending = [one for one in group if one.label in rows and rows[one.label].verdict == OPEN]
        for planned in sorted(pending, key=lambda one: seconds[one.label] * _noisy(one) ** 2):
            docs = FIRST_LOOK
            while docs < planned.docs and rows[planned.label].verdict == OPEN:
                needed = 1 / max(progress(planned, found[planned.label]), 1e-9)
                docs = math.ceil(docs * min(MOST, max(LEAST, needed)))
                yield planned, docs


def _kind(planned: Planned) -> int:
    """Rows that are scored come first, then those that are generated, then those that cannot decide."""
    return 2 if planned.tier != "critical" else 0 if planned.scored else 1


def _noisy(planned: Planned) -> float:
    """A row's noise in units of what it may lose: its square is about the docs that a verdict takes."""
    return planned.noise(planned.expected.stderr) / max(planned.allowed, 1e-9)
