"""Rank all runs: markdown, CSV and a static site that needs no server.

Runs are ranked only against runs that were measured like them: the same docs and prompts, variant and kind of
weights. Partial measurements stand in tables of their own, labelled.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evals.commands.options import Use, refuse_unused
from evals.core.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    from reports.boards import Board, Entry
    from reports.render.tables import Cell, Footnotes
    from reports.runs import Run
    from reports.site.figures import Figure

FORMATS = ("md", "csv", "site")
COLUMNS = (
    *(
        "suite",
        "table",
        "labels",
        "rank",
        "model",
        "dtype",
        "quantization",
        "row",
        "value",
        "low",
        "high",
        "stderr",
    ),
    *("n", "unit", "metric", "row_rank", "notes", "run"),
)


@dataclass(frozen=True)
class Options:
    """What `leaderboard` was asked for."""

    folder: Path
    all: bool
    output: Path
    formats: tuple[str, ...]
    no_samples: bool


USES: tuple[Use[Options], ...] = (
    Use("--no-samples", lambda o: "site" in o.formats, "is about the site, which is not written: add --format site"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `leaderboard`."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="holds runs (default: results)",
    )
    parser.add_argument(
        "--all", action="store_true", help="every run; without it, a model's fullest, then latest, run"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: DIR/leaderboard)"
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="what to write, may be repeated (default: all three)",
    )
    parser.add_argument(
        "--no-samples",
        action="store_true",
        help="a site without prompts and answers: small, and free to publish",
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(
        folder=args.folder,
        all=args.all,
        output=args.output or args.folder / "leaderboard",
        formats=tuple(args.format or FORMATS),
        no_samples=args.no_samples,
    )
    refuse_unused(args, options, USES)
    return options


def main(args: argparse.Namespace) -> int:
    """Writes the leaderboard; returns 0. Raises UserError."""
    from evals.core.files import write_atomic
    from reports.boards import build_boards, latest

    options = options_from(args)
    runs, refused = load_all(options.folder)
    boards = build_boards(runs if options.all else latest(runs))
    output, formats = options.output, options.formats
    written = []
    if "md" in formats:
        written.append(output / "LEADERBOARD.md")
        write_atomic(written[-1], markdown(boards, refused).encode())
    if "csv" in formats:
        written.append(output / "leaderboard.csv")
        write_atomic(written[-1], csv_text(boards, options.folder).encode())
    if "site" in formats:
        from reports.site.build import write_site

        written.append(write_site(output / "site", boards, refused, not options.no_samples) / "index.html")
    for line in refused:
        print(f"left out: {line}", file=sys.stderr)
    for path in written:
        print(path)
    return EXIT_OK


def load_all(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs below a folder, and a line for each run folder that was refused. Raises UserError if none is left."""
    from reports.runs import find_runs, load_run

    runs, refused = [], []
    for path in find_runs(folder):
        try:
            runs.append(load_run(path))
        except UserError as error:
            refused.append(str(error).replace(str(path), str(path.relative_to(folder))))
    if not runs:
        why = f": {refused[0]}" if refused else ""
        raise UserError(
            f"no usable run in '{folder}'{why}" if why else f"no run in '{folder}': measure a model first"
        )
    return runs, refused


# --- markdown -----------------------------------------------------------


def markdown(boards: Sequence[Board], refused: Sequence[str]) -> str:
    """LEADERBOARD.md: a table a board, each value with half its 95 % interval."""
    from reports.render import tables
    from reports.site.board_page import READING, board_caption, board_title
    from reports.site.naming import SUITE_TITLES, show

    shown = {
        id(item.run): item.name for item in show([entry.run for board in boards for entry in board.entries])
    }
    blocks = ["# Leaderboard\n"]
    for board in boards:
        words = ", ".join(label.text for label in board.labels) or board_title(board).lower()
        title = f"{SUITE_TITLES.get(board.suite, board.suite)}: {words}"
        notes = tables.Footnotes()
        lines = tuple(_line(entry, shown, notes) for entry in board.entries)
        table = tables.Table(title, _header(board), lines, tuple(notes.texts))
        blocks += [tables.markdown(table), tables.markdown_text(board_caption(board)) + "\n"]
    blocks += ["## How to read this\n", "\n\n".join(map(tables.markdown_text, READING)) + "\n"]
    if refused:
        blocks += ["Left out:\n", "\n".join(f"- {tables.markdown_text(line)}" for line in refused) + "\n"]
    return "\n".join(blocks)


def _header(board: Board) -> tuple[Cell, ...]:
    from reports.render.tables import Cell
    from reports.site.naming import count

    rows = [Cell(f"{row.label} (n = {row.n:,})") for row in board.rows]
    return (Cell("Model"), Cell("Rank"), Cell(f"Mean of {count(board.mean_rows, 'row')}"), *rows)


def _line(entry: Entry, shown: dict[int, str], notes: Footnotes) -> tuple[Cell, ...]:
    """A run's line; ratings carry their judge as a footnote."""
    from reports.boards import judge
    from reports.render.tables import Cell
    from reports.site.figures import mean_figure, row_figure

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
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, board in enumerate(boards, 1):
        for entry in board.entries:
            for line in _csv_lines(entry):
                shared = {"suite": board.suite, "table": number, "rank": entry.rank}
                shared["labels"] = "; ".join(label.text for label in board.labels)
                shared["run"] = entry.run.folder.relative_to(folder).as_posix()
                writer.writerow({name: plain(value) for name, value in (shared | line).items()})
    return stream.getvalue()


def _csv_lines(entry: Entry) -> list[dict[str, object]]:
    from reports.boards import JUDGED
    from reports.site.figures import mean_figure, row_figure
    from reports.site.naming import notes_text

    model = {
        "model": entry.run.name,
        "dtype": entry.run.model["dtype"],
        "quantization": entry.run.model["quantization"],
    }
    lines: list[dict[str, object]] = []
    if entry.mean is not None and (mean := mean_figure(entry.mean)):
        numbers = {
            "value": mean.value,
            "low": mean.low,
            "high": mean.high,
            "n": mean.n,
            "stderr": entry.mean.stderr,
        }
        lines.append(model | {"row": "Mean", "unit": "percent"} | numbers)
    for cell in entry.cells:
        row, figure = cell.row, row_figure(cell.row)
        numbers = {
            "value": row.value,
            "low": figure.low,
            "high": figure.high,
            "n": row.n,
            "stderr": row.stderr,
        }
        unit = "rating 1 to 10" if row.metric == JUDGED else "percent"
        words = {"row": row.label, "metric": row.metric, "unit": unit, "notes": notes_text(row)}
        lines.append(model | words | numbers | {"row_rank": cell.rank})
    return lines


def plain(value: object) -> object:
    """A value for a CSV cell: text on one line, never read as a formula by a spreadsheet."""
    from reports.render.tables import one_line

    if not isinstance(value, str):
        return value
    text = one_line(value)
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text
