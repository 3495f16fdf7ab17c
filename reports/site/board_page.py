"""The first page: a sortable table per board."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.core.statistics import Estimate
from reports import significance
from reports.boards import ALPHA, Board, Entry, judge
from reports.site import figures
from reports.site.naming import Shown, count, notes_text

MANY = 12  # tasks that are named one by one


def index_page(boards: Sequence[Board], shown: Sequence[Shown], refused: Sequence[str]) -> dict[str, Any]:
    """The first page: a sortable table per board."""
    models = len({item.run.name for item in shown})
    summary = (
        f"{count(len(shown), 'run')} of {count(models, 'model')}. Every value stands with its 95 % interval."
    )
    suites = [
        {
            "title": card.heading,
            "boards": [_board(board, shown) for board in boards if board.suite == suite],
        }
        for suite, card in {board.suite: board.card for board in boards}.items()
    ]
    reading = list(READING)
    if refused:
        reading.append(
            f"Left out, because they cannot be used: {count(len(refused), 'folder')} ({'; '.join(refused)})."
        )
    return {"here": "index", "summary": summary, "suites": suites, "reading": reading}


READING = (
    "Docs are a benchmark’s questions; n counts them. Shots are worked examples before a question (0-shot: none). The "
    "number type (dtype: float32, bfloat16) is what the model was computed in; Q4_1 and the like are weights that are "
    "stored in fewer bits. A row is a line of the model’s card, over one task or several.",
    "Lines marked “published” are the numbers on the models’ cards: printed without an error, measured by their "
    "authors, and not ranked. They stand only beside whole measurements.",
    "Runs stand in one table only if they were asked the same docs with the same prompts, with the same kind of "
    "weights and the same budgets. A label names what keeps a table from being the whole benchmark; numbers of "
    "different tables are not measured alike.",
    f"Rank: one more than the number of runs whose mean is significantly higher (paired by doc, two-sided, {ALPHA:g}, "
    "Holm’s correction over all pairs of the table). Runs that cannot be told apart may share a rank.",
    "Mean: the plain mean of the table’s rows in percent; ratings are not in it. Bold: not significantly below the "
    "best of its row, while another run is.",
    "± is half the width of the 95 % interval; two numbers are its ends, where it is not even about the value. "
    "The interval is Wilson’s for one task of right and wrong docs, else from the standard "
    "error; it covers the choice of docs, not the choice of prompts or settings.",
)


def _board(board: Board, shown: Sequence[Shown]) -> dict[str, Any]:
    means = [figure for entry in board.entries if (figure := figures.mean_figure(entry.mean))]
    bounds = [bound for figure in means for bound in (figure.low, figure.high) if bound is not None]
    scale = figures.axis(bounds) if bounds and len(means) > 1 else None
    kept = [k for k, row in enumerate(board.rows) if row.n or row.value is not None]
    return {
        "title": board_title(board),
        "labels": board.labels,
        "caption": board_caption(board),
        "mean_note": f"of {count(board.mean_rows, 'row')}",
        "columns": [_column(board, k) for k in kept],
        "lines": [_board_line(entry, shown, scale, kept) for entry in board.entries],
        "published": _published(board, kept),
    }


def _published(board: Board, kept: Sequence[int]) -> list[dict[str, Any]]:
    """The card's own columns beside a whole measurement: printed numbers, and their mean where all rows have one."""
    if board.labels:
        return []
    rows = [board.rows[k] for k in kept]
    lines = []
    for model in board.card.models:
        printed = [board.card.row(row.label) for row in rows]
        texts = [row.published.get(model, "") if row else "" for row in printed]
        ours = [(row.metric, row.value is not None) for row in rows]
        parts = [(metric, Estimate(float(text), None, 0) if text else None)
                 for (metric, known), text in zip(ours, texts, strict=True) if known and metric.in_percent]  # fmt: skip
        mean = significance.mean_of_rows(parts) if all(estimate for _, estimate in parts) else None
        lines.append({"name": model, "texts": texts, "mean": f"{mean.value:.1f}" if mean else ""})
    return [line for line in lines if any(line["texts"])]


def board_title(board: Board) -> str:
    """A board's heading, beside which its labels stand."""
    return "Partial measurements" if board.labels else "Whole suite"


def board_caption(board: Board) -> str:
    """What was measured, and what may be compared."""
    runs = len(board.entries)
    if runs > 1:
        text = f"{runs:,} runs, all on the same {board.docs:,} docs."
    else:
        text = f"1 run, on {board.docs:,} docs. Not ranked: no other run was measured like it."
    if board.labels:
        text += " " + ". ".join(label.title for label in board.labels) + "."
    if board.apart:
        names = ", ".join(board.apart[:MANY]) + (" and more" if len(board.apart) > MANY else "")
        text += f" Not asked the same as in the table above: {names}."
    return text


def _column(board: Board, position: int) -> dict[str, str]:
    row = board.rows[position]
    judges = {judge(entry.run, entry.cells[position].row) for entry in board.entries} - {""}
    return {
        "label": row.label,
        "note": f"n {row.n:,}",
        "judge": judges.pop() if len(judges) == 1 else "several judges" if judges else "",
        "title": f"{row.label}: {row.metric.name}, {row.metric.unit_words}, {row.n:,} docs",
    }


def _board_line(
    entry: Entry, shown: Sequence[Shown], scale: figures.Axis | None, kept: Sequence[int]
) -> dict[str, Any]:
    item = next(item for item in shown if item.run is entry.run)
    mean = figures.mean_figure(entry.mean)
    strip = scale.interval(mean) if scale and mean else None
    cells = [
        {"figure": figures.row_figure(cell.row), "leads": cell.leads, "note": notes_text(cell.row)}
        for cell in (entry.cells[k] for k in kept)
    ]
    line = {"rank": entry.rank, "name": item.run.name, "page": item.page, "under": item.under}
    return line | {"mean": mean, "strip": strip, "cells": cells}
