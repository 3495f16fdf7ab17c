"""The card's tables from runs: measured columns beside published ones, and what each row says about its own
card.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.commands.options import Use, refuse_unused, split_names
from evals.core.errors import EXIT_OK, UserError
from reports import published
from reports.published import PublishedTable
from reports.render.tables import RENDERERS, Cell, Footnotes, Table, one_line
from reports.runs import RowResult, Run, load_run
from reports.verdicts import RowVerdict, row_verdicts

FORMATS = ("md", "csv", "json", "latex", "html")
TITLES = {"base": "Base Pre-Trained Model", "instruct": "Instruction Model"}
DASH = "–"
ABSENT = {"not_judged": "not judged", "missing": "missing"}


@dataclass(frozen=True)
class Column:
    """A column of a card's table: a run, or (None) the published numbers of `model`."""

    title: str
    model: str
    run: Run | None = None


@dataclass(frozen=True)
class Section:
    """One table: runs of one suite, real data or smoke items, with the columns to show."""

    suite: str
    smoke: bool
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    card: PublishedTable

    @property
    def title(self) -> str:
        """The card's heading of the table."""
        return TITLES[self.suite] + (" (smoke items, not the benchmarks)" if self.smoke else "")

    @property
    def labels(self) -> list[str]:
        """Row labels in the card's order; rows that the card does not have come last."""
        measured = [row.label for run in self.runs for row in run.rows]
        if self.smoke or (self.runs and not any(column.run is None for column in self.columns)):
            known = [row.label for row in self.card.rows if row.label in measured]
        else:
            known = [row.label for row in self.card.rows]
        return list(dict.fromkeys([*known, *measured]))


@dataclass(frozen=True)
class Options:
    """What `report` was asked for; None: left out."""

    runs: tuple[Path, ...]
    columns: tuple[str, ...] | None
    format: str
    output: Path | None
    plot: Path | None
    curve: bool
    model_index: Path | None


_TABLES = "is about the card's tables, not about --curve"
USES: tuple[Use[Options], ...] = (
    Use("--columns", lambda o: not o.curve, _TABLES),
    Use("--model-index", lambda o: not o.curve, _TABLES),
    Use(
        "--format", lambda o: not o.curve or o.format == "md", "is about the card's tables: --curve prints md"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders (none: the card alone)"
    )
    parser.add_argument(
        "--columns",
        help="columns and their order, by comma: names of models; a measured one is taken before a published one, "
        "NAME:published and NAME:measured choose",
    )
    parser.add_argument("--format", choices=FORMATS, help="default: md")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture of the rows with intervals: .svg or .png"
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help="the runs are a training's checkpoints: how each row grows (as 'curve')",
    )
    parser.add_argument(
        "--model-index",
        type=Path,
        metavar="FILE",
        help="the model card's model-index as YAML; the newer eval-results YAML lands beside it",
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(
        runs=tuple(args.runs),
        columns=split_names("--columns", args.columns, "column"),
        format=args.format or "md",
        output=args.output,
        plot=args.plot,
        curve=args.curve,
        model_index=args.model_index,
    )
    refuse_unused(args, options, USES)
    return options


def main(args: argparse.Namespace) -> int:
    """Prints or writes the tables of the given runs."""
    options = options_from(args)
    if options.curve:
        from reports import curve

        return curve.show(curve.Options(options.runs, options.plot, options.output))
    return show(options)


def show(options: Options) -> int:
    """Prints or writes the tables, and what else was asked for."""
    runs = [load_run(folder) for folder in options.runs]
    text = render_tables(runs, options.columns, options.format)
    if options.output:
        write(options.output, text)
    else:
        print(text, end="")
    if options.plot:
        from reports.render.pictures import forest

        forest(runs, options.plot, options.columns)
    if options.model_index:
        from reports.model_index import write_model_index

        write_model_index(runs, options.model_index)
    return EXIT_OK


def write(path: Path, text: str) -> None:
    """Writes a report; a UserError when that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error


def render_tables(runs: Sequence[Run], columns: Sequence[str] | None = None, fmt: str = "md") -> str:
    """The tables of these runs as text ("md", "csv", "json", "latex" or "html"); without runs, the card's
    own.
    """
    parts = sections(runs, columns)
    if fmt == "json":
        return (
            json.dumps([_as_json(part) for part in parts], indent=1, ensure_ascii=False, allow_nan=False)
            + "\n"
        )
    if fmt == "csv":
        return _as_csv(parts)
    render = RENDERERS[fmt]
    tables = [table for part in parts for table in (card_table(part), *detail_tables(part))]
    return "\n".join(render(table) for table in tables)


# --- which columns --------------------------------------------------------------------------------


def sections(runs: Sequence[Run], columns: Sequence[str] | None = None) -> list[Section]:
    """The runs by suite, smoke runs apart: these never stand beside published numbers."""
    found = []
    unused = set(columns or ())
    for suite in published.SUITES:
        for smoke in (False, True):
            group = tuple(run for run in runs if run.suite == suite and run.smoke == smoke)
            if group or (not runs and not smoke):
                card = published.load(suite)
                chosen = _chosen(group, card, columns, smoke) if columns else _default(group, card, smoke)
                unused -= {name for name in columns or () if _matches(name, group, card)}
                found.append(Section(suite, smoke, group, chosen, card))
    if unused:
        known = dict.fromkeys([run.name for run in runs] + [m for part in found for m in part.card.models])
        raise UserError(f"no column '{sorted(unused)[0]}' for --columns: there are {', '.join(known)}")
    return found


def _titles(runs: Sequence[Run]) -> list[str]:
    """Names of the measured columns, told apart by what differs: weights, dtype, then the run's folder."""
    titles = [" ".join(filter(None, [run.name, run.model["quantization"]])) for run in runs]
    for more in (lambda run: run.model["dtype"] or "", lambda run: run.folder.name):
        if len(set(titles)) < len(titles):
            titles = [
                f"{title} {more(run)}" if titles.count(title) > 1 else title
                for title, run in zip(titles, runs, strict=True)
            ]
    return [f"{one_line(title)} (measured)" for title in titles]


def _default(runs: Sequence[Run], card: PublishedTable, smoke: bool) -> tuple[Column, ...]:
    measured = [Column(title, run.name, run) for title, run in zip(_titles(runs), runs, strict=True)]
    own = [run.model["card_column"] for run in runs]
    models = [] if smoke else [model for model in card.models if model in card.card or model in own]
    models.sort(key=lambda model: model in card.card)
    return (*measured, *(Column(model, model) for model in models))


def _matches(name: str, runs: Sequence[Run], card: PublishedTable) -> bool:
    model, _, kind = name.partition(":")
    return (kind != "published" and any(_is(run, model) for run in runs)) or (
        kind != "measured" and model in card.models
    )


def _is(run: Run, name: str) -> bool:
    return name in (run.name, run.model["card_column"], run.folder.name)


def _chosen(
    runs: Sequence[Run], card: PublishedTable, names: Sequence[str], smoke: bool
) -> tuple[Column, ...]:
    chosen = []
    titles = _titles(runs)
    for name in names:
        model, _, kind = name.partition(":")
        measured = [Column(t, r.name, r) for t, r in zip(titles, runs, strict=True) if _is(r, model)]
        if measured and kind != "published":
            chosen += measured
        elif model in card.models and kind != "measured" and not smoke:
            chosen.append(Column(model, model))
    return tuple(chosen)


# --- tables ---------------------------------------------------------------------------------------


def card_table(part: Section) -> Table:
    """The card's table: a row's best printed number is bold, ties too; footnotes say what is partial."""
    notes = Footnotes()
    heads = [_head(column, notes) for column in part.columns]
    rows = []
    for label in part.labels:
        cells = [_cell(part, column, label, notes) for column in part.columns]
        top = published.best({str(k): number for k, (number, _) in enumerate(cells) if number is not None})
        bold = len(cells) > 1
        rows.append(
            (
                Cell(label),
                *(Cell(cell.text, bold and str(k) in top, cell.marks) for k, (_, cell) in enumerate(cells)),
            )
        )
    return Table(part.title, (Cell(part.card.header), *heads), tuple(rows), tuple(notes.texts))


def _shared_notes(run: Run) -> list[str]:
    """Texts that every row with a value carries: they stand at the column's head."""
    measured = [row for row in run.rows if row.value is not None]
    texts = [note.text for note in measured[0].notes] if len(measured) > 1 else []
    return [text for text in texts if all(text in [note.text for note in row.notes] for row in measured)]


def _head(column: Column, notes: Footnotes) -> Cell:
    marks = [notes.mark(text) for text in _shared_notes(column.run)] if column.run else []
    return Cell(column.title, marks=tuple(marks))


def _cell(part: Section, column: Column, label: str, notes: Footnotes) -> tuple[str | None, Cell]:
    """The number that competes for bold (as printed), and the cell."""
    if column.run is None:
        row = part.card.row(label)
        text = row.cells.get(column.model) if row else None
        return text, Cell(text or DASH)
    result = column.run.row(label)
    if result is None:
        return None, Cell(DASH)
    shared = _shared_notes(column.run) if result.value is not None else []
    marks = tuple(notes.mark(note.text) for note in result.notes if note.text not in shared)
    if result.value is None:
        code = next((note.code for note in result.notes if note.code in ABSENT), "missing")
        return None, Cell(ABSENT[code], marks=marks)
    digits = shown_decimals(part.card, label, column.run.model["card_column"])
    number = f"{result.value:.{digits}f}"
    return number, Cell(f"{number}{plus_minus(result, digits)}", marks=marks)


def shown_decimals(card: PublishedTable, label: str, model: str | None) -> int:
    """Decimals of a measured value: those of the model's own printed number, else 1 for percent and 2 for
    ratings.
    """
    row = card.row(label)
    if row is not None and model is not None and model in row.cells:
        return row.decimals(model)
    return 2 if card.unit(label) == "score" else 1


def plus_minus(row: RowResult, digits: int) -> str:
    """ " ± half the width of the 95 % interval", or nothing when there is none."""
    interval = row.interval
    return "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.{digits}f}"


def detail_tables(part: Section) -> list[Table]:
    """For each run: n, interval, the model's own printed number, the difference and the verdict of every row."""
    tables = []
    for column in part.columns:
        if column.run is not None:
            tables.append(_detail(part, column.title, column.run))
    return tables


def _detail(part: Section, title: str, run: Run) -> Table:
    verdicts = row_verdicts(run, part.card)
    compared = any(verdict.printed is not None for verdict in verdicts.values())
    own = ["Published", "Difference", "Verdict"] if compared else []
    header = tuple(Cell(text) for text in (part.card.header, "n", "Measured", "95 % interval", *own))
    rows = []
    for row in sorted(run.rows, key=lambda row: part.labels.index(row.label)):
        digits = shown_decimals(part.card, row.label, run.model["card_column"])
        cells = [row.label, str(row.n), DASH, DASH]
        if row.value is not None:
            cells[2] = f"{row.value:.{digits}f}"
            cells[3] = (
                DASH
                if row.interval is None
                else f"{row.interval[0]:.{digits}f} to {row.interval[1]:.{digits}f}"
            )
        verdict = verdicts[row.label]
        if compared:
            difference = DASH if verdict.difference is None else signed(verdict.difference, digits)
            cells += [verdict.printed or DASH, difference, verdict.verdict]
        rows.append(tuple(Cell(text) for text in cells))
    return Table(f"{title}: row by row", header, tuple(rows))


def signed(value: float, digits: int) -> str:
    """A difference with its sign (a true minus), "0.0" without one."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


# --- data formats ---------------------------------------------------------------------------------


def _entries(part: Section) -> list[dict[str, Any]]:
    """One record a cell of the table, numbers unrounded."""
    entries = []
    for column in part.columns:
        verdicts = row_verdicts(column.run, part.card) if column.run else {}
        for label in part.labels:
            entry = {"row": label, "column": column.title, "kind": "measured" if column.run else "published"}
            if column.run is None:
                row = part.card.row(label)
                entries.append({**entry, "value": row.value(column.model) if row else None})
            elif (result := column.run.row(label)) is not None:
                entries.append({**entry, **_measured(result, verdicts[label])})
    return entries


def _measured(row: RowResult, verdict: RowVerdict) -> Mapping[str, Any]:
    low, high = row.interval or (None, None)
    return {
        "value": row.value,
        "stderr": row.stderr,
        "low": low,
        "high": high,
        "n": row.n,
        "published": None if verdict.printed is None else float(verdict.printed),
        "difference": verdict.difference,
        "verdict": verdict.verdict,
        "p_differs": verdict.result and verdict.result.p_differs,
        "p_equivalent": verdict.result and verdict.result.p_equivalent,
        "notes": [{"code": note.code, "text": note.text} for note in row.notes],
    }


def _as_json(part: Section) -> dict[str, Any]:
    return {
        "suite": part.suite,
        "smoke": part.smoke,
        "runs": [
            {"model": dict(run.model), "folder": run.folder.name, "limit": run.record["limit"]}
            for run in part.runs
        ],
        "cells": _entries(part),
    }


CSV_FIELDS = (
    "suite", "row", "column", "kind", "value", "stderr", "low", "high", "n",
    "published", "difference", "verdict", "notes",
)  # fmt: skip


def _as_csv(parts: Sequence[Section]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for part in parts:
        for entry in _entries(part):
            notes = "; ".join(note["text"] for note in entry.get("notes", ()))
            line = {**entry, "suite": part.suite, "notes": notes}
            writer.writerow({key: _harmless(value) for key, value in line.items()})
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a quote in front."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
