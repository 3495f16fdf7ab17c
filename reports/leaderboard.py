"""Rank all runs: markdown, CSV and a static site that needs no server.

Runs are ranked only against runs that were measured like them: the same docs and prompts, variant and kind of
weights. Partial measurements stand in tables of their own, labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.core.errors import UserError
from reports import card
from reports.boards import Board, Entry, judge
from reports.render import tables
from reports.render.tables import Cell, Footnotes
from reports.runs import Run, find_runs, load_run
from reports.site.figures import Figure, mean_figure, row_figure
from reports.site.naming import count, notes_text, show
from reports.site.pages import READING, board_caption, board_title

COLUMNS = (
    "suite", "table", "labels", "rank", "model", "dtype", "quantization", "row", "value", "low", "high", "stderr",
    "n", "unit", "metric", "row_rank", "notes", "run",
)  # fmt: skip


def load_all(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs below a folder, and a line for each run folder that was refused. Raises UserError if none is left."""
    runs, refused = [], []
    for path in find_runs(folder):
        try:
            runs.append(load_run(path))
        except UserError as error:
            refused.append(str(error).replace(str(path), str(path.relative_to(folder))))
    if not runs and refused:
        raise UserError(f"no usable run in '{folder}': {refused[0]}")
    if not runs:
        raise UserError(f"no run in '{folder}': measure a model first")
    return runs, refused


# --- markdown -----------------------------------------------------------


def markdown(boards: Sequence[Board], refused: Sequence[str]) -> str:
    """LEADERBOARD.md: a table a board, each value with half its 95 % interval."""
    shown = {
        id(item.run): item.name for item in show([entry.run for board in boards for entry in board.entries])
    }
    blocks = ["# Leaderboard\n"]
    for board in boards:
        words = ", ".join(label.text for label in board.labels) or board_title(board).lower()
        title = f"{board.card.heading}: {words}"
        notes = tables.Footnotes()
        lines = tuple(_line(entry, shown, notes) for entry in board.entries)
        table = tables.Table(title, _header(board), lines, tuple(notes.texts))
        blocks += [tables.markdown(table), tables.markdown_text(board_caption(board)) + "\n"]
    blocks += ["## How to read this\n", "\n\n".join(map(tables.markdown_text, READING)) + "\n"]
    if refused:
        blocks += ["Left out:\n", "\n".join(f"- {tables.markdown_text(line)}" for line in refused) + "\n"]
    return "\n".join(blocks)


def _header(board: Board) -> tuple[Cell, ...]:
    rows = [Cell(f"{row.label} (n = {row.n:,})") for row in board.rows]
    return (Cell("Model"), Cell("Rank"), Cell(f"Mean of {count(board.mean_rows, 'row')}"), *rows)


def _line(entry: Entry, shown: dict[int, str], notes: Footnotes) -> tuple[Cell, ...]:
    """A run's line; ratings carry their judge as a footnote."""
    mean = mean_figure(entry.mean)
    cells = [Cell(shown[id(entry.run)]), Cell(str(entry.rank or "–")), Cell(_value(mean) if mean else "–")]
    for cell in entry.cells:
        words = judge(entry.run, cell.row)
        marks = (notes.mark(f"Judge: {words}"),) if words else ()
        cells.append(Cell(_value(row_figure(cell.row)), bold=cell.leads, marks=marks))
    return tuple(cells)


def _value(figure: Figure) -> str:
    if figure.value is None:
        return figure.text
    spread = figure.spread_text
    return f"{figure.text} {spread}" if spread.startswith("±") else f"{figure.text} ({spread})"


# --- CSV -----------------------------------------------------------


def csv_text(boards: Sequence[Board], folder: Path) -> str:
    """leaderboard.csv: one line a run and row (the mean first), unrounded; texts cannot turn into formulas."""
    records = []
    for number, board in enumerate(boards, 1):
        shared = {
            "suite": board.suite,
            "table": number,
            "labels": "; ".join(one.text for one in board.labels),
        }
        for entry in board.entries:
            run = entry.run.folder.relative_to(folder).as_posix()
            records += [shared | {"rank": entry.rank, "run": run} | line for line in _records(entry)]
    return tables.csv_text(records, COLUMNS)


def _records(entry: Entry) -> list[dict[str, object]]:
    run = entry.run
    model = {"model": run.name, "dtype": run.model.dtype, "quantization": run.model.quantization}
    lines: list[dict[str, object]] = []
    if (mean := entry.mean) is not None:
        figure = card.Figure(mean, mean.interval(), n=mean.n)
        lines.append(model | figure.record() | {"row": "Mean", "unit": "percent"})
    for cell in entry.cells:
        row = cell.row
        words = {"row": row.label, "metric": row.metric.name, "unit": row.metric.unit_words}
        ranked = {"row_rank": cell.rank, "notes": notes_text(row)}
        lines.append(model | words | card.measured_figure(run, row).record() | ranked)
    return lines
