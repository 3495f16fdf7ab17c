"""A task taken apart: its value group by group (subjects, categories), and item by item (kinds of instructions)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evals.core import statistics
from evals.core.metric import Metric
from evals.core.statistics import Estimate
from reports.runs import Run
from reports.site import figures
from reports.site.figures import Figure
from reports.site.naming import Shown

Parts = dict[str, Figure]


def breakdowns(task: str, metrics: Sequence[Metric], items: Sequence[Shown]) -> list[dict[str, Any]]:
    """Tables of the runs' values by part of the task, parts in the order of their names; none where it has no parts."""
    found: list[tuple[str, list[Parts]]] = [
        (f"By group: {metric.name}", [_by_group(item.run, task, metric) for item in items])
        for metric in metrics[:1]
    ]
    found += [
        (f"By item: {metric.name}", [_by_item(item.run, task, metric) for item in items])
        for metric in metrics
        if metric.shape == "items"
    ]
    return [_table(title, parts, items) for title, parts in found if any(len(one) > 1 for one in parts)]


def _by_group(run: Run, task: str, metric: Metric) -> Parts:
    columns = run.columns(task)
    groups = columns.get("group", ())
    parts = {}
    for group in dict.fromkeys(group for group in groups if group is not None):
        at = [k for k, one in enumerate(groups) if one == group]
        figure = figures.task_figure(
            metric, {name: [values[k] for k in at] for name, values in columns.items()}
        )
        if figure is not None:
            parts[str(group)] = figure
    return parts


def _by_item(run: Run, task: str, metric: Metric) -> Parts:
    """By the names that the samples give to the items of a doc; the items of one name in a doc are clustered."""
    values = run.columns(task).get(metric.column, [])
    table = run.table(task, ["item_names"])
    if not values or "item_names" not in table.column_names:
        return {}
    scores: dict[str, list[tuple[float, int]]] = {}
    for doc, (names, items) in enumerate(zip(table.column("item_names").to_pylist(), values, strict=True)):
        for name, value in _pairs(names, items):
            scores.setdefault(name, []).append((value, doc))
    return {name: _figure(metric, pairs) for name, pairs in scores.items()}


def _pairs(names: Any, items: Any) -> Iterator[tuple[str, float]]:
    if isinstance(names, list) and len(names) == len(items):
        yield from zip(map(str, names), items, strict=True)


def _figure(metric: Metric, pairs: Sequence[tuple[float, int]]) -> Figure:
    estimate = statistics.clustered_mean(np.array([value for value, _ in pairs]), [doc for _, doc in pairs])
    stderr = None if estimate.stderr is None else estimate.stderr * metric.scale
    low, high = Estimate(estimate.value * metric.scale, stderr, len(pairs)).interval() or (None, None)
    return Figure(estimate.value * metric.scale, low, high, len(pairs), metric.digits)


def _table(title: str, parts: Sequence[Parts], items: Sequence[Shown]) -> dict[str, Any]:
    names = sorted({name for one in parts for name in one})
    lines = [
        {
            "name": name,
            "n": max(one[name].n for one in parts if name in one),
            "figures": [one.get(name) for one in parts],
        }
        for name in names
    ]
    return {"title": title, "runs": [item.name for item in items], "lines": lines}
