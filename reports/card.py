"""A card's tables from runs: measured columns beside published ones, and what each row says about its own card."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.core.card import Card, all_cards, best
from evals.core.errors import UserError
from evals.core.metric import Metric
from reports.margins import USUAL, Tolerance
from reports.render.tables import RENDERERS, Cell, Footnotes, Table, one_line
from reports.runs import RowResult, Run, cards_of
from reports.verdicts import RowVerdict, row_verdicts

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
    """One table: runs of one card, real data or smoke items, with the columns to show."""

    card: Card
    smoke: bool
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    tolerance: Tolerance = USUAL

    @property
    def title(self) -> str:
        """The card's heading of the table."""
        return table_title(self.card.title, self.smoke)

    @property
    def labels(self) -> list[str]:
        """Row labels in the card's order; rows that the card does not have come last."""
        measured = [row.label for run in self.runs for row in run.rows]
        if self.smoke or (self.runs and not any(column.run is None for column in self.columns)):
            known = [row.label for row in self.card.rows if row.label in measured]
        else:
            known = [row.label for row in self.card.rows]
        return list(dict.fromkeys([*known, *measured]))

    def metric(self, label: str) -> Metric:
        """The metric of a row: as measured, else as the card has it."""
        rows = [row for run in self.runs if (row := run.row(label)) is not None]
        return rows[0].metric if rows else next(row.of for row in self.card.rows if row.label == label)


def table_title(title: str, smoke: bool) -> str:
    """A table's heading, which says of smoke items that they are."""
    return title + (" (smoke items, not the benchmarks)" if smoke else "")


def render_tables(
    runs: Sequence[Run],
    columns: Sequence[str] | None = None,
    fmt: str = "md",
    tolerance: Tolerance = USUAL,
) -> str:
    """The tables of these runs as text ("md", "csv", "json", "latex" or "html"); without runs, the cards' own."""
    parts = [replace(part, tolerance=tolerance) for part in sections(runs, columns)]
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
    for card in cards_of(runs).values() if runs else all_cards():
        for smoke in (False, True):
            group = tuple(run for run in runs if run.suite == card.name and run.smoke == smoke)
            if group or (not runs and not smoke):
                chosen = _chosen(group, card, columns, smoke) if columns else _default(group, card, smoke)
                unused -= {name for name in columns or () if _matches(name, group, card)}
                found.append(Section(card, smoke, group, chosen))
    if unused:
        known = dict.fromkeys([run.name for run in runs] + [m for part in found for m in part.card.models])
        raise UserError(f"no column '{sorted(unused)[0]}' for --columns: there are {', '.join(known)}")
    return found


def _titles(runs: Sequence[Run]) -> list[str]:
    """Names of the measured columns, told apart by what differs: weights, dtype, then the run's folder."""
    titles = [" ".join(filter(None, [run.name, run.model.quantization])) for run in runs]
    more: Callable[[Run], str]
    for more in (lambda run: run.model.dtype or "", lambda run: run.folder.name):
        if len(set(titles)) < len(titles):
            titles = [
                f"{title} {more(run)}" if titles.count(title) > 1 else title
                for title, run in zip(titles, runs, strict=True)
            ]
    return [f"{one_line(title)} (measured)" for title in titles]


def _default(runs: Sequence[Run], card: Card, smoke: bool) -> tuple[Column, ...]:
    measured = [Column(title, run.name, run) for title, run in zip(_titles(runs), runs, strict=True)]
    own = [run.model.card_column for run in runs]
    models = [] if smoke else [model for model in card.models if model in card.compared or model in own]
    models.sort(key=lambda model: model in card.compared)
    return (*measured, *(Column(model, model) for model in models))


def _matches(name: str, runs: Sequence[Run], card: Card) -> bool:
    model, _, kind = name.partition(":")
    return (kind != "published" and any(_is(run, model) for run in runs)) or (
        kind != "measured" and model in card.models
    )


def _is(run: Run, name: str) -> bool:
    return name in (run.name, run.model.card_column, run.folder.name)


def _chosen(runs: Sequence[Run], card: Card, names: Sequence[str], smoke: bool) -> tuple[Column, ...]:
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
        numbers = {str(k): number for k, (number, _) in enumerate(cells) if number is not None}
        top = best(numbers, part.metric(label).higher_is_better)
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
        text = row.published.get(column.model) if row else None
        return text, Cell(text or DASH)
    result = column.run.row(label)
    if result is None:
        return None, Cell(DASH)
    shared = _shared_notes(column.run) if result.value is not None else []
    marks = tuple(notes.mark(note.text) for note in result.notes if note.text not in shared)
    if result.value is None:
        code = next((note.code for note in result.notes if note.code in ABSENT), "missing")
        return None, Cell(ABSENT[code], marks=marks)
    digits = shown_decimals(column.run, result)
    number = f"{result.value:.{digits}f}"
    return number, Cell(f"{number}{plus_minus(result, digits)}", marks=marks)


def shown_decimals(run: Run, row: RowResult) -> int:
    """Decimals of a measured value: those of the model's own printed number, else the metric's."""
    printed = run.card.row(row.label)
    return row.metric.digits if printed is None else printed.digits(run.model.card_column)


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
    verdicts = row_verdicts(run, part.tolerance)
    compared = any(verdict.printed is not None for verdict in verdicts.values())
    own = ["Published", "Difference", "Verdict"] if compared else []
    header = tuple(Cell(text) for text in (part.card.header, "n", "Measured", "95 % interval", *own))
    rows = []
    for row in sorted(run.rows, key=lambda row: part.labels.index(row.label)):
        digits = shown_decimals(run, row)
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
    notes = [f"Verdict: {part.tolerance.words}"] if compared else []
    return Table(f"{title}: row by row", header, tuple(rows), tuple(notes))


def signed(value: float, digits: int) -> str:
    """A difference with its sign (a true minus), "0.0" without one."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


# --- data formats ---------------------------------------------------------------------------------


def _entries(part: Section) -> list[dict[str, Any]]:
    """One record a cell of the table, numbers unrounded."""
    entries = []
    for column in part.columns:
        verdicts = row_verdicts(column.run, part.tolerance) if column.run else {}
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
        "suite": part.card.name,
        "smoke": part.smoke,
        "runs": [
            {"model": run.model.model_dump(), "folder": run.folder.name, "limit": run.log.limit}
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
            line = {**entry, "suite": part.card.name, "notes": notes}
            writer.writerow({key: _harmless(value) for key, value in line.items()})
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a quote in front."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
