"""A card's tables from runs: measured columns beside published ones, and what each row says about its own card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evals.core import statistics
from evals.core.card import Card, all_cards, best, decimals
from evals.core.errors import UserError
from evals.core.metric import Metric
from evals.core.runlog import Note
from evals.core.statistics import Estimate
from reports import significance
from reports.margins import USUAL, Tolerance
from reports.render.tables import RENDERERS, Cell, Footnotes, Table, cells, csv_text, json_text, one_line
from reports.runs import RowResult, Run, cards_of
from reports.verdicts import row_verdicts, verdict_words

DASH = "–"
SMOKE = " (smoke items, not the benchmarks)"
ABSENT = {"not_judged": "not judged", "missing": "missing"}


@dataclass(frozen=True)
class Figure:
    """What a column shows in a row, published (no error, no n) or measured; `absent`: what stands for no value.

    `kind`: which interval it is.
    """

    estimate: Estimate | None
    interval: tuple[float, float] | None = None
    digits: int = 1
    n: int | None = None
    notes: tuple[Note, ...] = ()
    absent: str = DASH
    kind: str = "normal"

    @property
    def text(self) -> str:
        """The number as it is printed."""
        return self.absent if self.estimate is None else f"{self.estimate.value:.{self.digits}f}"

    @property
    def between(self) -> str:
        """The interval in words."""
        if self.interval is None:
            return DASH
        return f"{self.interval[0]:.{self.digits}f} to {self.interval[1]:.{self.digits}f}"

    def cell(self, notes: Footnotes, shared: Sequence[str] = (), plain: bool = False) -> Cell:
        """The number ± half its interval (`plain`: without), with footnotes for its notes but those in `shared`."""
        left_out = () if self.estimate is None else shared
        marks = {notes.mark(note.text) for note in self.notes if note.text not in left_out}
        spread = "" if plain else plus_minus(self.interval, self.digits)
        return Cell(self.text + spread, marks=tuple(sorted(marks)))

    def record(self) -> dict[str, Any]:
        """Value, error, interval and what it is, and docs, unrounded."""
        low, high = self.interval or (None, None)
        value, stderr = (self.estimate.value, self.estimate.stderr) if self.estimate else (None, None)
        words = None if self.interval is None else f"95 %, {self.kind}"
        return {"value": value, "stderr": stderr, "low": low, "high": high, "interval": words, "n": self.n}


def measured_figure(run: Run, row: RowResult) -> Figure:
    """A measured row with the decimals of its model's own printed number, else the metric's."""
    printed = run.card.row(row.label)
    digits = row.metric.digits if printed is None else printed.digits(run.model.card_column)
    absent = next((ABSENT[note.code] for note in row.notes if note.code in ABSENT), "missing")
    kind = "Wilson" if statistics.is_wilson(row.metric, len(row.tasks)) else "normal"
    return Figure(row.estimate, row.interval, digits, row.n, row.notes, absent, kind)


@dataclass(frozen=True)
class Column:
    """A column of a card's table: a run, or (None) the published numbers of `model`."""

    title: str
    model: str
    run: Run | None = None

    def figure(self, card: Card, label: str) -> Figure:
        """What it shows in a row of the card."""
        if self.run is not None:
            result = self.run.row(label)
            return Figure(None) if result is None else measured_figure(self.run, result)
        row = card.row(label)
        text = row.published.get(self.model) if row else None
        return Figure(None) if text is None else Figure(Estimate(float(text), None, 0), digits=decimals(text))

    @property
    def shared(self) -> list[str]:
        """Texts of notes that every row with a value carries: they stand at the column's head."""
        measured = [row for row in self.run.rows if row.value is not None] if self.run else []
        texts = [note.text for note in measured[0].notes] if len(measured) > 1 else []
        return [text for text in texts if all(text in [note.text for note in row.notes] for row in measured)]


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
    def title(self) -> str:
        """The card's heading of the table."""
        return self.card.title + SMOKE * self.smoke

    @property
    def beside(self) -> bool:
        """Whether published columns stand in it."""
        return any(column.run is None for column in self.columns)

    @property
    def labels(self) -> list[str]:
        """Row labels in the card's order; rows that the card does not have come last."""
        measured = [row.label for run in self.runs for row in run.rows]
        whole = not self.smoke and (self.beside or not self.runs)
        known = [row.label for row in self.card.rows if whole or row.label in measured]
        return list(dict.fromkeys([*known, *measured]))

    @cached_property
    def figures(self) -> dict[str, list[Figure]]:
        """{label: a figure a column}."""
        return {label: [column.figure(self.card, label) for column in self.columns] for label in self.labels}

    @cached_property
    def mean(self) -> Mean | None:
        """The mean over its rows; None where nothing is measured, or fewer than two rows are in all columns."""
        labels = [label for label in self.labels if self._averaged(label)]
        if len(labels) < 2 or not any(column.run for column in self.columns):
            return None
        figures = []
        for position in range(len(self.columns)):
            own = [self.figures[label][position] for label in labels]
            estimate = statistics.average([figure.estimate for figure in own if figure.estimate])
            notes = tuple(note for figure in own for note in figure.notes)
            figures.append(Figure(estimate, estimate.interval(), 1, estimate.n or None, notes))
        missed = [label for label in self.labels if label not in labels]
        without = f"; without {', '.join(missed)}" if missed else ""
        return Mean(f"Mean of {len(labels)} rows", figures, f"{significance.MEAN_WORDS}{without}")

    def metric(self, label: str) -> Metric:
        """The metric of a row: as measured, else as the card has it."""
        rows = [row for run in self.runs if (row := run.row(label)) is not None]
        return rows[0].metric if rows else next(row.of for row in self.card.rows if row.label == label)

    def _averaged(self, label: str) -> bool:
        """Whether a row is in the mean: in percent, in every column, and on no other docs than published ones."""
        rows = [row for column in self.columns if column.run and (row := column.run.row(label))]
        other = self.beside and any(row.has(code) for row in rows for code in ("subset", "variant"))
        return (
            self.metric(label).in_percent and not other and all(one.estimate for one in self.figures[label])
        )


@dataclass(frozen=True)
class Mean:
    """The mean over the rows in percent that all columns have: a figure a column, and what it is in words."""

    label: str
    figures: list[Figure]
    words: str


def render_tables(
    runs: Sequence[Run], columns: Sequence[str] | None = None, fmt: str = "md", tolerance: Tolerance = USUAL,
    plain: bool = False,
) -> str:  # fmt: skip
    """The tables of these runs as text ("md", "csv", "json", "latex" or "html"); without runs, the cards' own."""
    parts = [replace(part, tolerance=tolerance, plain=plain) for part in sections(runs, columns)]
    if fmt == "json":
        return json_text([_as_json(part) for part in parts])
    if fmt == "csv":
        records = [{**entry, "suite": part.card.name} for part in parts for entry in _entries(part)]
        for record in records:
            record["notes"] = "; ".join(note["text"] for note in record.get("notes", ()))
        return csv_text(records, CSV_FIELDS)
    tables = []
    for part in parts:
        measured = [(column, column.run, k) for k, column in enumerate(part.columns) if column.run]
        tables += [_card_table(part), *(_detail(part, column.title, run, k) for column, run, k in measured)]
    return "\n".join(map(RENDERERS[fmt], tables))


# --- which columns --------------------------------------------------------------------------------


def sections(runs: Sequence[Run], columns: Sequence[str] | None = None) -> list[Section]:
    """The runs by suite, smoke runs apart: these never stand beside published numbers. Raises UserError."""
    cards = list(cards_of(runs).values()) if runs else all_cards()
    _check_columns(columns or (), runs, cards)
    found = []
    for card in cards:
        for smoke in (False, True):
            group = tuple(run for run in runs if run.suite == card.name and run.smoke == smoke)
            if group or not (runs or smoke):
                found.append(Section(card, smoke, group, _columns(group, card, columns, smoke)))
    return found


def _check_columns(names: Sequence[str], runs: Sequence[Run], cards: Sequence[Card]) -> None:
    measured: set[str | None] = {name for run in runs for name in _names(run)}
    published: set[str | None] = {model for card in cards for model in card.models}
    for name in sorted(set(names)):
        model, _, kind = name.partition(":")
        if model not in {"measured": measured, "published": published}.get(kind, measured | published):
            known = dict.fromkeys([run.name for run in runs] + [m for card in cards for m in card.models])
            raise UserError(f"no column '{name}' for --columns: there are {', '.join(known)}")


def _names(run: Run) -> tuple[str | None, ...]:
    return run.name, run.model.card_column, run.folder.name


def _titles(runs: Sequence[Run]) -> list[str]:
    """Names of the measured columns, told apart by what differs: weights, dtype, then the run's folder."""
    titles = [" ".join(filter(None, [run.name, run.model.quantization])) for run in runs]
    for more in ([run.model.dtype or "" for run in runs], [run.folder.name for run in runs]):
        if len(set(titles)) < len(titles):
            pairs = zip(titles, more, strict=True)
            titles = [f"{title} {word}" if titles.count(title) > 1 else title for title, word in pairs]
    return [f"{one_line(title)} (measured)" for title in titles]


def _columns(runs: Sequence[Run], card: Card, names: Sequence[str] | None, smoke: bool) -> tuple[Column, ...]:
    """The named columns; without names, the measured ones, their own published ones and those of the card's table."""
    measured = [Column(title, run.name, run) for title, run in zip(_titles(runs), runs, strict=True)]
    if not names:
        own = [run.model.card_column for run in runs]
        models = [] if smoke else [model for model in card.models if model in card.compared or model in own]
        models.sort(key=lambda model: model in card.compared)
        return (*measured, *(Column(model, model) for model in models))
    chosen = []
    for name in names:
        model, _, kind = name.partition(":")
        here = [column for column in measured if column.run and model in _names(column.run)]
        if here and kind != "published":
            chosen += here
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


def _card_table(part: Section) -> Table:
    """The card's table: a row's best printed number is bold, ties too; footnotes say what is partial."""
    notes = Footnotes()
    heads = [Cell(column.title, marks=tuple(map(notes.mark, column.shared))) for column in part.columns]
    rows = []
    for label, figures in part.figures.items():
        printed = {str(k): figure.text for k, figure in enumerate(figures) if figure.estimate}
        top = best(printed, part.metric(label).higher_is_better) if len(figures) > 1 else set()
        line = _cells(part, figures, notes)
        rows.append((Cell(label), *(replace(cell, bold=str(k) in top) for k, cell in enumerate(line))))
    remarks = [PLAIN if part.plain else SPREAD] if any(column.run for column in part.columns) else []
    if mean := part.mean:
        rows.append((Cell(mean.label), *_cells(part, mean.figures, notes)))
        remarks.append(f"{mean.label}: {mean.words}")
    header = (Cell(part.card.header), *heads)
    return Table(part.title, header, tuple(rows), tuple(notes.texts), tuple(remarks))


def _cells(part: Section, figures: Sequence[Figure], notes: Footnotes) -> list[Cell]:
    pairs = zip(part.columns, figures, strict=True)
    return [figure.cell(notes, column.shared, part.plain) for column, figure in pairs]


def plus_minus(interval: tuple[float, float] | None, digits: int) -> str:
    """ " ± half the width of the 95 % interval", or nothing when there is none."""
    return "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.{digits}f}"


def _detail(part: Section, title: str, run: Run, position: int) -> Table:
    """A measured column row by row: n, interval, the model's own printed number, the difference and the verdict."""
    verdicts = row_verdicts(run, part.tolerance)
    compared = any(verdict.printed is not None for verdict in verdicts.values())
    own = ["Published", "Difference", "Verdict"] if compared else []
    rows = []
    for label in [label for label in part.labels if label in verdicts]:
        figure, verdict = part.figures[label][position], verdicts[label]
        line = [label, str(figure.n), DASH if figure.estimate is None else figure.text, figure.between]
        if compared:
            difference = DASH if verdict.difference is None else signed(verdict.difference, figure.digits)
            line += [verdict.printed or DASH, difference, verdict.verdict]
        rows.append(cells(*line))
    if mean := part.mean:
        one = mean.figures[position]
        rows.append(cells(mean.label, str(one.n), one.text, one.between, *[DASH] * len(own)))
    tested = sum(verdict.result is not None for verdict in verdicts.values())
    header = cells(part.card.header, "n", "Measured", "95 % interval", *own)
    remarks = (verdict_words(part.tolerance, tested),) if compared else ()
    return Table(f"{title}: row by row", header, tuple(rows), remarks=remarks)


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
    for k, column in enumerate(part.columns):
        about = {"column": column.title, "kind": "measured" if column.run else "published"}
        verdicts = row_verdicts(column.run, part.tolerance) if column.run else {}
        for label, figures in part.figures.items():
            record = {"row": label, **about, **figures[k].record()}
            if verdict := verdicts.get(label):
                record |= {"published": None if verdict.printed is None else float(verdict.printed)}
                record |= {"difference": verdict.difference, "verdict": verdict.verdict}
                tests = ("p_differs", "p_equivalent")
                record |= {name: verdict.result and getattr(verdict.result, name) for name in tests}
                record["notes"] = [{"code": note.code, "text": note.text} for note in figures[k].notes]
            if verdict or not column.run:
                entries.append(record)
        if mean := part.mean:
            entries.append({"row": mean.label, **about, **mean.figures[k].record()})
    return entries


def _as_json(part: Section) -> dict[str, Any]:
    explained = {"interval": SPREAD, "verdict": part.tolerance.words, "mean": significance.MEAN_WORDS}
    about = {"runs": [run.about() for run in part.runs], "explained": explained if part.runs else {}}
    return {"suite": part.card.name, "smoke": part.smoke, **about, "cells": _entries(part)}
