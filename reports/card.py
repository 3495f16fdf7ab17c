"""A card's tables from runs: measured columns beside published ones, and what each row says about its own card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.core import statistics
from evals.core.card import Card, all_cards, best
from evals.core.errors import UserError
from evals.core.metric import Metric
from evals.core.statistics import Estimate
from reports import significance
from reports.margins import USUAL, Tolerance
from reports.render.tables import RENDERERS, Cell, Footnotes, Table, cells, csv_text, one_line
from reports.runs import RowResult, Run, cards_of
from reports.verdicts import RowVerdict, row_verdicts, verdict_words

DASH = "–"
SMOKE = " (smoke items, not the benchmarks)"
ABSENT = {"not_judged": "not judged", "missing": "missing"}


@dataclass(frozen=True)
class Column:
    """A column of a card's table: a run, or (None) the published numbers of `model`."""

    title: str
    model: str
    run: Run | None = None


@dataclass(frozen=True)
class Section:
    """One table: runs of one card, real data or smoke items, with the columns to show (`plain`: without ±)."""

    card: Card
    smoke: bool
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    tolerance: Tolerance = USUAL
    plain: bool = False

    @property
    def measured(self) -> bool:
        """Whether a run stands in it."""
        return any(column.run is not None for column in self.columns)

    @property
    def title(self) -> str:
        """The card's heading of the table."""
        return self.card.title + SMOKE * self.smoke

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


def render_tables(
    runs: Sequence[Run],
    columns: Sequence[str] | None = None,
    fmt: str = "md",
    tolerance: Tolerance = USUAL,
    plain: bool = False,
) -> str:
    """The tables of these runs as text ("md", "csv", "json", "latex" or "html"); without runs, the cards' own."""
    parts = [replace(part, tolerance=tolerance, plain=plain) for part in sections(runs, columns)]
    if fmt == "json":
        data = [_as_json(part) for part in parts]
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
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
    for more in ([run.model.dtype or "" for run in runs], [run.folder.name for run in runs]):
        if len(set(titles)) < len(titles):
            pairs = zip(titles, more, strict=True)
            titles = [f"{title} {word}" if titles.count(title) > 1 else title for title, word in pairs]
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

SPREAD = (
    "± is half the width of the 95 % interval, not a standard error. The interval is Wilson's for one task of right "
    "and wrong docs, else 1.96 standard errors over the docs to each side; it covers the choice of docs, not that of "
    "prompts or settings. Published numbers were printed without an error."
)
PLAIN = "The intervals of all measured numbers stand in the tables row by row."


def card_table(part: Section) -> Table:
    """The card's table: a row's best printed number is bold, ties too; footnotes say what is partial."""
    notes = Footnotes()
    heads = [_head(column, notes) for column in part.columns]
    rows = []
    for label in part.labels:
        found = [_cell(part, column, label, notes) for column in part.columns]
        printed = {str(k): number for k, (number, _) in enumerate(found) if number is not None}
        top = best(printed, part.metric(label).higher_is_better) if len(found) > 1 else set()
        rows.append((Cell(label), *(replace(cell, bold=str(k) in top) for k, (_, cell) in enumerate(found))))
    remarks = [PLAIN if part.plain else SPREAD] if part.measured else []
    if mean := _mean(part):
        rows.append((Cell(mean.label), *(_mean_cell(part, mean, k, notes) for k in range(len(part.columns)))))
        remarks.append(f"{mean.label}: {significance.MEAN_WORDS}{mean.without}")
    return Table(
        part.title, (Cell(part.card.header), *heads), tuple(rows), tuple(notes.texts), tuple(remarks)
    )


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
    cell = measured_cell(column.run, result, notes, _shared_notes(column.run), part.plain)
    return None if result.value is None else _number(column.run, result), cell


def measured_cell(
    run: Run, row: RowResult, notes: Footnotes, shared: Sequence[str] = (), plain: bool = False
) -> Cell:
    """A row's value ± half its interval (`plain`: without), or why there is none; footnotes but those in `shared`."""
    marks = _own_marks(row, notes, shared)
    if row.value is None:
        code = next((note.code for note in row.notes if note.code in ABSENT), "missing")
        return Cell(ABSENT[code], marks=marks)
    spread = "" if plain else plus_minus(row.interval, shown_decimals(run, row))
    return Cell(_number(run, row) + spread, marks=marks)


def _number(run: Run, row: RowResult) -> str:
    return f"{row.value:.{shown_decimals(run, row)}f}"


def _own_marks(row: RowResult, notes: Footnotes, shared: Sequence[str]) -> tuple[int, ...]:
    """Footnotes of a row that are not those of the whole column."""
    left_out = shared if row.value is not None else ()
    return tuple(notes.mark(note.text) for note in row.notes if note.text not in left_out)


def shown_decimals(run: Run, row: RowResult) -> int:
    """Decimals of a measured value: those of the model's own printed number, else the metric's."""
    printed = run.card.row(row.label)
    return row.metric.digits if printed is None else printed.digits(run.model.card_column)


def plus_minus(interval: tuple[float, float] | None, digits: int) -> str:
    """ " ± half the width of the 95 % interval", or nothing when there is none."""
    return "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.{digits}f}"


@dataclass(frozen=True)
class Mean:
    """The mean over the rows in percent that all columns have: one estimate a column (published: no error, n = 0)."""

    labels: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    without: str

    @property
    def label(self) -> str:
        """How the row is called."""
        return f"Mean of {len(self.labels)} rows"


def _mean(part: Section) -> Mean | None:
    """None where nothing is measured, or fewer than two rows are in all columns."""
    found = {label: [_estimate(part, column, label) for column in part.columns] for label in part.labels}
    percent = [label for label in part.labels if part.metric(label).in_percent and not _is_other(part, label)]
    labels = tuple(label for label in percent if None not in found[label])
    if not part.measured or len(labels) < 2:
        return None
    columns = [[(part.metric(label), found[label][k]) for label in labels] for k in range(len(part.columns))]
    estimates = [estimate for column in columns if (estimate := significance.mean_of_rows(column))]
    missed = [label for label in part.labels if label not in labels]
    return Mean(labels, tuple(estimates), f"; without {', '.join(missed)}" if missed else "")


def _is_other(part: Section, label: str) -> bool:
    """Whether a run measured something else in this row than the published columns beside it: other docs or budgets."""
    rows = [column.run.row(label) for column in part.columns if column.run is not None]
    beside = any(column.run is None for column in part.columns)
    return beside and any(row.has(code) for row in rows if row for code in ("subset", "variant"))


def _estimate(part: Section, column: Column, label: str) -> Estimate | None:
    if column.run is not None:
        result = column.run.row(label)
        return result.estimate if result else None
    row = part.card.row(label)
    value = row.value(column.model) if row else None
    return None if value is None else Estimate(value, None, 0)


def _mean_cell(part: Section, mean: Mean, position: int, notes: Footnotes) -> Cell:
    run, estimate = part.columns[position].run, mean.estimates[position]
    rows = [row for label in mean.labels if run and (row := run.row(label))]
    shared = _shared_notes(run) if run else []
    marks = {mark for row in rows for mark in _own_marks(row, notes, shared)}
    spread = "" if part.plain else plus_minus(estimate.interval(), 1)
    return Cell(f"{estimate.value:.1f}{spread}", marks=tuple(sorted(marks)))


def detail_tables(part: Section) -> list[Table]:
    """For each run: n, interval, the model's own printed number, the difference and the verdict of every row."""
    return [_detail(part, column.title, column.run) for column in part.columns if column.run is not None]


def _detail(part: Section, title: str, run: Run) -> Table:
    verdicts = row_verdicts(run, part.tolerance)
    compared = any(verdict.printed is not None for verdict in verdicts.values())
    own = ["Published", "Difference", "Verdict"] if compared else []
    rows = []
    for row in sorted(run.rows, key=lambda row: part.labels.index(row.label)):
        digits, verdict = shown_decimals(run, row), verdicts[row.label]
        line = [row.label, str(row.n), *_shown(row.value, row.interval, digits)]
        if compared:
            difference = DASH if verdict.difference is None else signed(verdict.difference, digits)
            line += [verdict.printed or DASH, difference, verdict.verdict]
        rows.append(cells(*line))
    if mean := _mean(part):
        one = mean.estimates[[column.run for column in part.columns].index(run)]
        rows.append(cells(mean.label, str(one.n), *_shown(one.value, one.interval(), 1), *[DASH] * len(own)))
    tested = sum(verdict.result is not None for verdict in verdicts.values())
    header = cells(part.card.header, "n", "Measured", "95 % interval", *own)
    remarks = (verdict_words(part.tolerance, tested),) if compared else ()
    return Table(f"{title}: row by row", header, tuple(rows), remarks=remarks)


def _shown(value: float | None, interval: tuple[float, float] | None, digits: int) -> tuple[str, str]:
    number = DASH if value is None else f"{value:.{digits}f}"
    return number, DASH if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign (a true minus), "0.0" without one."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


# --- data formats ---------------------------------------------------------------------------------

CSV_FIELDS = (
    "suite", "row", "column", "kind", "value", "stderr", "low", "high", "interval", "n",
    "published", "difference", "verdict", "notes",
)  # fmt: skip


def _entries(part: Section) -> list[dict[str, Any]]:
    """One record a cell of the table, numbers unrounded."""
    entries = []
    mean = _mean(part)
    for k, column in enumerate(part.columns):
        about = {"column": column.title, "kind": "measured" if column.run else "published"}
        verdicts = row_verdicts(column.run, part.tolerance) if column.run else {}
        for label in part.labels:
            if column.run is None:
                row = part.card.row(label)
                entries.append({"row": label, **about, "value": row.value(column.model) if row else None})
            elif (result := column.run.row(label)) is not None:
                entries.append({"row": label, **about, **_measured(result, verdicts[label])})
        if mean:
            known = _numbers(mean.estimates[k], mean.estimates[k].interval(), "normal")
            entries.append({"row": mean.label, **about, **known})
    return entries


def _numbers(estimate: Estimate | None, interval: tuple[float, float] | None, kind: str) -> dict[str, Any]:
    low, high = interval or (None, None)
    value, stderr = (None, None) if estimate is None else (estimate.value, estimate.stderr)
    words = None if interval is None else f"95 %, {kind}"
    n = {"n": estimate.n} if estimate and estimate.n else {}
    return {"value": value, "stderr": stderr, "low": low, "high": high, "interval": words, **n}


def numbers(row: RowResult) -> dict[str, Any]:
    """A measured row as a record, unrounded: value, error, interval and what it is, docs, notes."""
    kind = "Wilson" if statistics.is_wilson(row.metric, len(row.tasks)) else "normal"
    notes = [{"code": note.code, "text": note.text} for note in row.notes]
    return {**_numbers(row.estimate, row.interval, kind), "n": row.n, "notes": notes}


def _measured(row: RowResult, verdict: RowVerdict) -> Mapping[str, Any]:
    return {
        **numbers(row),
        "published": None if verdict.printed is None else float(verdict.printed),
        "difference": verdict.difference,
        "verdict": verdict.verdict,
        "p_differs": verdict.result and verdict.result.p_differs,
        "p_equivalent": verdict.result and verdict.result.p_equivalent,
    }


def _as_json(part: Section) -> dict[str, Any]:
    runs = [
        {"model": run.model.model_dump(), "folder": run.folder.name, "limit": run.log.limit}
        for run in part.runs
    ]
    explained = {"interval": SPREAD, "verdict": part.tolerance.words, "mean": significance.MEAN_WORDS}
    about = {"runs": runs, "explained": explained if part.runs else {}}
    return {"suite": part.card.name, "smoke": part.smoke, **about, "cells": _entries(part)}


def _as_csv(parts: Sequence[Section]) -> str:
    records = [{**entry, "suite": part.card.name} for part in parts for entry in _entries(part)]
    for record in records:
        record["notes"] = "; ".join(note["text"] for note in record.get("notes", ()))
    return csv_text(records, CSV_FIELDS)
