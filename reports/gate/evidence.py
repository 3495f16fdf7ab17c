"""What a row of two runs shows: its values on the shared docs, the docs that moved, and what the gold answers say.

The gold answers (gold.py) are there for rows whose samples keep their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.core.metric import METRICS, Metric
from evals.core.statistics import Array, Estimate
from reports.compare import on_shared_docs
from reports.gate.betting import Drawn, interleaved
from reports.gate.gold import MARGIN, SOFT, Gold, Pair, Side, gold_change, gold_pair, mean_change
from reports.runs import Columns, Run, shared_columns
from reports.significance import Difference

SHOWN_DOCS = 10


@dataclass(frozen=True)
class Moved:
    """A doc that lost: its task and number, and by how much (its margin in nats a character, or its score)."""

    task: str
    doc_id: int
    loss: float


@dataclass(frozen=True)
class Evidence:
    """One row in both runs. `before`, `after`: values on the shared docs, in the shown unit.

    `soft` (the change of soft accuracy, in points), `soft_drawn` and `gold`: None where there are no gold answers.
    `drawn`, `soft_drawn`: docs in the order in which an early gate draws them; None where the candidate is a whole run.
    """

    metric: Metric
    before: float
    after: float
    difference: Difference
    soft: Estimate | None = None
    gold: Gold | None = None
    drawn: Drawn | None = None
    soft_drawn: Drawn | None = None
    moved: tuple[Moved, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all of the baseline's docs are in it."""
        return self.drawn is None or len(self.drawn.losses) >= self.drawn.total

    @property
    def loss(self) -> float:
        """By how much the candidate is worse, in the shown unit."""
        return self.metric.loss(self.before, self.after)


def row_evidence(
    baseline: Run,
    candidate: Run,
    label: str,
    any_prompt: bool = False,
    finer: bool = True,
    early: bool = False,
) -> Evidence | None:
    """What a row shows; None where the runs do not share its tasks, metric, docs, and values.

    `finer`: with the gold answers, which the baseline has (has_gold). `early`: the candidate has the first docs of each
    task only.
    """
    row, other = baseline.row(label), candidate.row(label)
    if row is None or other is None or None in (row.value, other.value):
        return None
    metric, tasks = row.metric, row.tasks
    measured = on_shared_docs(baseline, candidate, row, tasks, any_prompt)
    if metric != other.metric or set(tasks) != set(other.tasks) or measured is None:
        return None
    pairs = [shared_columns(baseline, candidate, task, any_prompt) for task in tasks]
    shared = [pair for pair in pairs if pair is not None]
    whole = baseline.samples(tasks) if early else None
    drawn = drawn_docs(metric, whole, shared) if whole else None
    found = [gold_pair(metric, baseline, candidate, task, any_prompt) for task in tasks] if finer else []
    gold = [pair for pair in found if pair is not None]
    if len(gold) < len(tasks):
        return Evidence(metric, *measured, drawn=drawn, moved=_moved(metric, tasks, shared, shared))
    soft = replace(SOFT, average=metric.average)
    finest = mean_change(soft, gold), gold_change(metric, shared, gold)
    soft_drawn = drawn_docs(soft, whole, gold) if whole else None
    return Evidence(metric, *measured, *finest, drawn, soft_drawn, _moved(metric, tasks, shared, gold))


def doc_losses(metric: Metric, before: Side, after: Side, whole: Side) -> Array:
    """By how much each doc lost, [n_docs] in the metric's own unit; items count alike, as in the `whole` task."""
    losses: Array
    if metric.parts:
        losses = np.mean([doc_losses(METRICS[name], before, after, whole) for name in metric.parts], axis=0)
        return losses
    values = [side[metric.column] for side in (before, after)]
    if metric.shape == "items":
        values = [[sum(items) for items in side] for side in values]
    change = np.array(values[1], float) - np.array(values[0], float)
    losses = (-change if metric.higher_is_better else change) / np.mean(_lengths(metric, whole))
    return losses


def _lengths(metric: Metric, columns: Side) -> list[int]:
    """How many items its docs have."""
    return [len(items) for items in columns[metric.column]] if metric.shape == "items" else [1]


def _most(metric: Metric, whole: Side) -> float:
    """The most that a doc can lose, in units of the metric's reach."""
    if metric.parts:
        return float(np.mean([_most(METRICS[name], whole) for name in metric.parts]))
    lengths = _lengths(metric, whole)
    return float(max(lengths) / np.mean(lengths))


def drawn_docs(metric: Metric, whole: Sequence[Columns], shared: Sequence[Pair]) -> Drawn:
    """The row's docs as far as they are measured, in the order in which an early gate draws them from the whole row.

    `whole`: the baseline's tasks; `shared`: both sides of each task's first docs.
    """
    sizes = tuple(len(columns["doc_id"]) for columns in whole)
    order = interleaved(sizes)[: reached(sizes, [len(before["doc_id"]) for before, _ in shared])]
    losses, bound = np.empty(len(order)), 0.0
    for k, (columns, (before, after)) in enumerate(zip(whole, shared, strict=True)):
        weights = _weights(metric, columns) * sum(sizes) / len(sizes)
        own = doc_losses(metric, before, after, columns) * metric.scale
        losses[order == k] = (own * weights[: len(own)])[: int(np.sum(order == k))]
        bound = max(bound, float(weights.max()) * metric.reach * _most(metric, columns))
    return Drawn(losses, bound, sum(sizes))


def reached(sizes: tuple[int, ...], counts: Sequence[int]) -> int:
    """How many docs of the order are measured when of each task the first `counts` are."""
    order = interleaved(sizes)
    ends = [np.flatnonzero(order == k)[count:][:1] for k, count in enumerate(counts)]
    return min([len(order), *(int(end[0]) for end in ends if len(end))])


def docs_of_tasks(sizes: tuple[int, ...], drawn: int) -> list[int]:
    """How many docs of each task to measure for the first `drawn` of the order: at least two, which tell an error."""
    counts = np.bincount(interleaved(sizes)[:drawn], minlength=len(sizes))
    return [max(int(count), min(2, size)) for count, size in zip(counts, sizes, strict=True)]


def _weights(metric: Metric, columns: Columns) -> Array:
    """What each doc of a task counts, so that they add up to one."""
    n = len(columns["doc_id"])
    if metric.average != "groups":
        return np.full(n, 1 / n)
    _, group, sizes = np.unique(np.asarray(columns["group"]), return_inverse=True, return_counts=True)
    return 1 / (sizes[group] * len(sizes))


def _moved(
    metric: Metric, tasks: Sequence[str], shared: Sequence[Pair], gold: Sequence[Pair]
) -> tuple[Moved, ...]:
    """The docs that lost most: those whose score fell first, then by margin where there is one."""
    found: list[tuple[float, Moved]] = []
    for task, (before, after), (one, two) in zip(tasks, shared, gold, strict=True):
        scores = losses = doc_losses(metric, before, after, before)
        if MARGIN in one:
            losses = one[MARGIN] - two[MARGIN]
        for i in np.lexsort((-losses, -scores))[:SHOWN_DOCS]:
            if losses[i] > 0:
                found.append((scores[i], Moved(task, before["doc_id"][i], float(losses[i]))))
    found.sort(key=lambda one: (-one[0], -one[1].loss))
    return tuple(one for _, one in found[:SHOWN_DOCS])
