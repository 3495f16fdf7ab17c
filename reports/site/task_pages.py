"""The pages of tasks: who answered them how well, and on which data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.core.metric import Metric, get_metric
from evals.core.runlog import TaskDataLog
from reports.boards import Board
from reports.runs import Run
from reports.site import fields, figures
from reports.site.board_page import board_title
from reports.site.breakdown import breakdowns
from reports.site.figures import Figure, Line
from reports.site.naming import Shown, count
from reports.site.scripts import slug

OTHER_ROW = "Other"


def main_metric(run: Run, task: str) -> Metric | None:
    """The metric by which a row of the run uses the task, or the first that it has."""
    for row in run.rows:
        if task in row.tasks:
            return row.metric
    return next(map(get_metric, run.log.tasks[task].metrics), None)


def main_figure(run: Run, task: str) -> Figure | None:
    """A task's value by its row's metric."""
    metric = main_metric(run, task)
    return figures.task_figure(metric, run.columns(task)) if metric else None


def row_label(run: Run, task: str) -> str:
    """The label of the row that a task belongs to."""
    return next((row.label for row in run.rows if task in row.tasks), OTHER_ROW)


def tasks_page(shown: Sequence[Shown]) -> dict[str, Any]:
    """All tasks by suite and row."""
    suites = []
    for suite, card in {item.run.suite: item.run.card for item in shown}.items():
        rows: dict[str, dict[str, int]] = {}
        for run in (item.run for item in shown if item.run.suite == suite):
            for task in run.tasks:
                sizes = rows.setdefault(row_label(run, task), {})
                sizes[task] = max(sizes.get(task, 0), run.log.tasks[task].n)
        listed = [
            {
                "label": label,
                "tasks": [{"name": t, "n": n, "page": slug(t) + ".html"} for t, n in sizes.items()],
            }
            for label, sizes in rows.items()
        ]
        suites.append({"title": card.heading, "rows": listed})
    return {"here": "tasks", "suites": suites}


def task_context(task: str, boards: Sequence[Board], shown: Sequence[Shown]) -> dict[str, Any]:
    """One task: who answered it how well, board by board, and on which data."""
    held = [board for board in boards if task in board.entries[0].run.tasks]
    groups = [_task_group(task, board, shown) for board in held]
    row = row_label(held[0].entries[0].run, task)
    summary = f"The whole of {row}." if row_is_task(held[0], task) else f"A part of {row}."
    return {"here": "", "task": task, "summary": summary, "groups": groups, "facts": _data_facts(task, held)}


def row_is_task(board: Board, task: str) -> bool:
    """Whether the task's row is over this task alone."""
    return any(row.tasks == (task,) for row in board.rows)


def _task_group(task: str, board: Board, shown: Sequence[Shown]) -> dict[str, Any]:
    items = [item for entry in board.entries for item in shown if item.run is entry.run]
    metrics = list(dict.fromkeys(metric for item in items for metric in _metrics(item.run, task)))
    lines = [
        {
            "name": item.run.name,
            "under": item.under,
            "page": item.page,
            "key": item.key,
            "n": item.run.log.tasks[task].n,
            "figures": [figures.task_figure(metric, item.run.columns(task)) for metric in metrics],
        }
        for item in items
    ]
    pictures = []
    known = [Line(item.name, figure) for item in items if (figure := main_figure(item.run, task))]
    metric = main_metric(items[0].run, task)
    caption = f"{metric.name if metric else 'no score'}; lines are 95 % intervals."
    if picture := figures.forest(known, f"{task}: runs with 95 % intervals", caption):
        pictures.append(picture)
    title = f"{board.card.heading}: {board_title(board).lower()}"
    group = {
        "title": title,
        "suite": board.suite,
        "labels": board.labels,
        "caption": _task_caption(items, task),
    }
    group |= {"pictures": pictures, "metrics": [metric.name for metric in metrics], "lines": lines}
    return group | {"parts": breakdowns(task, metrics, items)}


def _task_caption(items: Sequence[Shown], task: str) -> str:
    entry = items[0].run.log.tasks[task]
    settings = entry.settings
    shots, budget = fields.count(settings.get("shots")), fields.thousands(settings.get("max_new_tokens"))
    stops = fields.texts(settings.get("stops"))
    words = [f"{count(len(items), 'run')}, on {'the same ' if len(items) > 1 else ''}{count(entry.n, 'doc')}"]
    words.append(f"{shots} worked examples before each question" if shots else "no worked examples")
    words += [f"at most {budget} new tokens"] if budget else []
    words += ["stops at " + ", ".join(f"“{stop}”" for stop in stops)] if stops else []
    return "; ".join(words) + "."


def _metrics(run: Run, task: str) -> list[Metric]:
    """The row's metric first."""
    main = main_metric(run, task)
    return list(dict.fromkeys(([main] if main else []) + list(map(get_metric, run.log.tasks[task].metrics))))


def _data_facts(task: str, boards: Sequence[Board]) -> list[dict[str, Any]]:
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for run in (entry.run for board in boards for entry in board.entries):
        data = run.log.data.tasks.get(task) or TaskDataLog()
        pairs: list[tuple[str, object]] = [("Source", run.log.data.source)]
        pairs += [("Revision", data.revision), ("Rows in the split", data.rows)]
        pairs += [("Official rows", data.official_rows), ("Note", data.note)]
        pairs += [(f"sha256 of {file}", digest) for file, digest in data.sha256.items()]
        for name, value in pairs:
            if words := fields.thousands(value) or fields.text(value):
                code = name == "Revision" or name.startswith("sha256")
                facts[name, words] = {"name": name, "value": words, "code": code}
    return list(facts.values())
