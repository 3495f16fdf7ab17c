"""Why two cards disagree: every published number of a model beside the measured one, and how each was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.core.card import Card, Row, all_cards
from evals.core.errors import UserError, nearest
from reports.card import DASH, SPREAD, Figure, measured_figure
from reports.render.tables import RENDERERS, Cell, Footnotes, Table, cells, csv_text, json_text
from reports.runs import Run, cards_of

Protocol = Callable[[Card, Row], dict[str, str]]
"""How a card asks a row: {fact: words}; `benchmark` is what rows of several cards have in common."""
FIELDS = (
    "model", "benchmark", "suite", "row", "published", "source", "value", "stderr", "low", "high", "interval", "n",
    "run", "notes", "protocol", "differences",
)  # fmt: skip


@dataclass(frozen=True)
class Number:
    """A card's row for a model: the published number, a run's measured one, or both; `facts`: how it is asked.

    `first`: the benchmark's number that the others are told apart from.
    """

    model: str
    benchmark: str
    card: Card
    row: Row
    run: Run | None
    facts: Mapping[str, str]
    first: Number | None = None

    @property
    def measured(self) -> Figure:
        """The row as measured."""
        result = self.run.row(self.row.label) if self.run else None
        return measured_figure(self.run, result) if self.run and result else Figure(None)

    @property
    def differences(self) -> list[str]:
        """What is asked in another way than for the first number, in words."""
        if self.first is None:
            return []
        names = {**self.first.facts, **self.facts}
        pairs = [[one.facts.get(name, "unknown") for one in (self, self.first)] for name in names]
        return [f"{mine}, not {theirs}" for mine, theirs in pairs if mine != theirs]


def published_models(cards: Sequence[Card]) -> list[str]:
    """The models that any of these cards prints numbers of."""
    return list(dict.fromkeys(model for card in cards for model in card.models))


def find_numbers(models: Sequence[str], runs: Sequence[Run], protocol: Protocol) -> list[Number]:
    """All numbers of these models, and of the runs' models, by benchmark, a measured one first.

    The cards are those that ship and those of the runs. Raises UserError for a model that none of them prints, and for
    a run that stands beside no published number.
    """
    for run in runs:
        if run.smoke or run.foreign:
            what = "smoke items" if run.smoke else "what another harness measured"
            raise UserError(f"'{run.folder}' is of {what}: no published number stands beside that")
    cards = list(({card.name: card for card in all_cards()} | cards_of(runs)).values())
    known, found = published_models(cards), []
    for model in dict.fromkeys([*models, *map(_column, runs)]):
        if model not in known:
            raise UserError(f"no card here prints a number of '{model}': {nearest(model, known)}")
        found += _of_model(model, cards, [run for run in runs if _column(run) == model], protocol)
    return found


def _column(run: Run) -> str:
    return run.model.card_column or run.name


def _of_model(model: str, cards: Sequence[Card], runs: Sequence[Run], protocol: Protocol) -> list[Number]:
    groups: dict[str, list[Number]] = {}
    for card in cards:
        for row in card.rows:
            measured: list[Run | None] = [r for r in runs if r.suite == card.name and r.row(row.label)]
            if measured or model in row.published:
                facts = protocol(card, row)
                name = facts.pop("benchmark")
                group = groups.setdefault(name, [])
                group += [Number(model, name, card, row, run, facts) for run in measured or [None]]
    found = []
    for group in groups.values():
        first, *others = sorted(group, key=lambda number: number.run is None)
        found += [first, *(replace(one, first=first) for one in others)]
    return found


def render(found: Sequence[Number], fmt: str) -> str:
    """The numbers as text ("md", "csv", "json", "latex" or "html"), tables by model."""
    entries = [_entry(number) for number in found]
    if fmt == "json":
        return json_text(entries)
    if fmt == "csv":
        for entry in entries:
            entry["protocol"] = "; ".join(entry["protocol"].values())
            entry["differences"] = "; ".join(entry["differences"])
            entry["notes"] = "; ".join(note["text"] for note in entry["notes"])
        return csv_text(entries, FIELDS)
    models = dict.fromkeys(number.model for number in found)
    return "\n".join(RENDERERS[fmt](_table(m, [one for one in found if one.model == m])) for m in models)


def _entry(one: Number) -> dict[str, Any]:
    """A record, numbers unrounded."""
    printed, measured = one.row.value(one.model), one.measured
    return {
        "model": one.model, "benchmark": one.benchmark, "suite": one.card.name, "row": one.row.label,
        "published": printed, "source": None if printed is None else one.card.models[one.model].source,
        **measured.record(), "run": one.run.folder.name if one.run else None,
        "notes": [{"code": note.code, "text": note.text} for note in measured.notes],
        "protocol": dict(one.facts), "differences": one.differences,
    }  # fmt: skip


def _table(model: str, found: Sequence[Number]) -> Table:
    notes, lines = Footnotes(), []
    more = ["Measured", "n"] if any(one.run for one in found) else []
    for one in found:
        how = "; ".join(one.facts.values() if one.first is None else one.differences or ["alike"])
        shown = (_printed(one, notes), *_measured(one, notes)[: len(more)])
        lines.append((*cells(one.benchmark, one.card.title, one.row.label), *shown, Cell(how)))
    header = cells("Benchmark", "Card", "Row", "Published", *more, "How it is asked")
    how = "How it is asked: a benchmark's first number in full, the others by what differs from it"
    remarks = (how, SPREAD) if more else (how,)
    return Table(f"{model}, by every card known here", header, tuple(lines), tuple(notes.texts), remarks)


def _measured(one: Number, notes: Footnotes) -> tuple[Cell, ...]:
    """The number with its interval, from which run it is, and its docs."""
    if one.run is None:
        return cells(DASH, DASH)
    model, cell = one.run.model, one.measured.cell(notes)
    kind = ", ".join(filter(None, [model.quantization, model.dtype]))
    mark = notes.mark(f"{one.run.folder.name}: {one.run.name}, {kind}")
    return replace(cell, marks=(mark, *cell.marks)), Cell(f"{one.measured.n:,}")


def _printed(one: Number, notes: Footnotes) -> Cell:
    text = one.row.published.get(one.model)
    if text is None:
        return Cell(DASH)
    where = one.card.models[one.model]
    return Cell(text, marks=(notes.mark(": ".join(filter(None, [where.source, where.note]))),))
