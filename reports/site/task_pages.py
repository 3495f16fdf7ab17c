"""The pages of tasks: who answered them how well, part by part, and on which data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas

from evals.core.metric import Metric, get_metric
from evals.core.runlog import TaskDataLog, TaskLog
from evals.core.statistics import clustered_mean
from reports.boards import Board
from reports.runs import Run
from reports.site import figures
from reports.site.figures import Figure, Line, metric_figure, task_figure
from reports.site.naming import Shown, count, number

OTHER_ROW = "Other"
Parts = Mapping[str, Figure]


def metrics_of(run: Run, task: str) -> list[Metric]:
    """The metrics of a task, that of its row first."""
    own = [row.metric for row in run.rows if task in row.tasks][:1]
    return list(dict.fromkeys([*own, *map(get_metric, run.log.tasks[task].metrics)]))


def main_figure(run: Run, task: str) -> Figure | None:
    """A task's value by its row's metric."""
    metrics = metrics_of(run, task)
    return task_figure(metrics[0], run.columns(task)) if metrics else None


def row_label(run: Run, task: str) -> str:
    """The label of the row that a task belongs to."""
    return next((row.label for row in run.rows if task in row.tasks), OTHER_ROW)


def tasks_page(shown: Sequence[Shown]) -> dict[str, Any]:
    """All tasks by suite and row: {suite's heading: {row: {task: docs of its longest run}}}."""
    suites: dict[str, dict[str, dict[str, int]]] = {}
    for run in (item.run for item in shown):
        for task in run.tasks:
            sizes = suites.setdefault(run.card.heading, {}).setdefault(row_label(run, task), {})
            sizes[task] = max(sizes.get(task, 0), run.log.tasks[task].n)
    return {"suites": suites}


def task_context(task: str, boards: Sequence[Board], shown: Sequence[Shown]) -> dict[str, Any]:
    """One task: who answered it how well, board by board, and on which data."""
    held = [board for board in boards if task in board.entries[0].run.tasks]
    row = row_label(held[0].entries[0].run, task)
    whole = any(row.tasks == (task,) for row in held[0].rows)
    return {
        "task": task,
        "summary": f"{'The whole' if whole else 'A part'} of {row}.",
        "groups": [_task_group(task, board, shown) for board in held],
        "sources": _data_facts(task, held),
    }


def _task_group(task: str, board: Board, shown: Sequence[Shown]) -> dict[str, Any]:
    items = [item for entry in board.entries for item in shown if item.run is entry.run]
    metrics = list(dict.fromkeys(metric for item in items for metric in metrics_of(item.run, task)))
    known = [Line(item.name, figure) for item in items if (figure := main_figure(item.run, task))]
    caption = f"{metrics[0].name if metrics else 'no score'}; lines are 95 % intervals."
    return {
        "board": board,
        "caption": _task_caption(len(items), items[0].run.log.tasks[task]),
        "picture": figures.forest(known, f"{task}: runs with 95 % intervals", caption),
        "metrics": metrics,
        "lines": [(one, [task_figure(m, one.run.columns(task)) for m in metrics]) for one in items],
        "parts": list(_parts(task, metrics, [item.run for item in items])),
    }


def _task_caption(runs: int, log: TaskLog) -> str:
    shots, budget = number(log.settings.get("shots")), number(log.settings.get("max_new_tokens"))
    stops = log.settings.get("stops")
    words = [f"{count(runs, 'run')}, on {'the same ' if runs > 1 else ''}{count(log.n, 'doc')}"]
    words.append(f"{shots} worked examples before each question" if shots else "no worked examples")
    words += [f"at most {budget:,} new tokens"] if budget else []
    words += (
        ["stops at " + ", ".join(f"“{one}”" for one in stops)] if stops and isinstance(stops, list) else []
    )
    return "; ".join(words) + "."


def _data_facts(task: str, boards: Sequence[Board]) -> list[tuple[str, object]]:
    facts: dict[tuple[str, object], None] = {}
    for run in (entry.run for board in boards for entry in board.entries):
        data = run.log.data.tasks.get(task) or TaskDataLog()
        rows = {"Rows in the split": data.rows, "Official rows": data.official_rows}
        pairs = {"Source": run.log.data.source, "Revision": data.revision}
        pairs |= {name: f"{n:,}" for name, n in rows.items() if n is not None} | {"Note": data.note}
        pairs |= {f"sha256 of {file}": digest for file, digest in data.sha256.items()}
        facts |= dict.fromkeys(pairs.items())
    return list(facts)


# --- a task taken apart ---


def _parts(
    task: str, metrics: Sequence[Metric], runs: Sequence[Run]
) -> Iterator[tuple[str, dict[str, list[Figure | None]]]]:
    """(title, {part: the runs' values}) by group and, of metrics of items, by item; none where there is one part."""
    found = [(f"By group: {one.name}", [_by_group(run, task, one) for run in runs]) for one in metrics[:1]]
    found += [
        (f"By item: {metric.name}", [_by_item(run, task, metric) for run in runs])
        for metric in metrics
        if metric.shape == "items"
    ]
    for title, parts in found:
        names = sorted({name for one in parts for name in one})
        if any(len(one) > 1 for one in parts):
            yield title, {name: [one.get(name) for one in parts] for name in names}


def _by_group(run: Run, task: str, metric: Metric) -> Parts:
    """By subject or category."""
    frame = pandas.DataFrame(run.columns(task))
    groups = frame.groupby("group") if "group" in frame else ()
    found = {str(group): task_figure(metric, docs.to_dict("list")) for group, docs in groups}
    return {group: figure for group, figure in found.items() if figure}


def _by_item(run: Run, task: str, metric: Metric) -> Parts:
    """By the names that the samples give to the items of a doc; the items of one name in a doc are clustered."""
    table, values = run.table(task, ["item_names"]).to_pydict(), run.columns(task).get(metric.column)
    if not table or values is None:
        return {}
    frame = pandas.DataFrame({"name": table["item_names"], "value": values})
    fits = [
        isinstance(one, list) and len(one) == len(k) for one, k in zip(frame.name, frame.value, strict=True)
    ]
    named = frame[fits].explode(["name", "value"])
    return {
        str(name): metric_figure(metric, clustered_mean(items.value.to_numpy(float), items.index))
        for name, items in named.groupby("name")
    }
