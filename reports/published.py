"""The model cards' numbers as data (results/published/*.toml), each with the decimals it was printed with."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from evals.core.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "results" / "published"
SUITES = ("base", "instruct")


@dataclass(frozen=True)
class PublishedRow:
    """One row of a card. `unit` is "percent" or "score" (MT-Bench, 1 to 10); `cells` {model: printed text}.

    `docs`: how many docs the number was measured on (IFEval: prompts; MT-Bench: questions).
    """

    label: str
    docs: int
    unit: str
    cells: Mapping[str, str]

    def value(self, model: str) -> float | None:
        """The model's number in the row's unit, or None."""
        text = self.cells.get(model)
        return None if text is None else float(text)

    def decimals(self, model: str) -> int:
        """How many decimals the model's number was printed with."""
        return decimals(self.cells[model])


@dataclass(frozen=True)
class PublishedTable:
    """One table of the card. `header` names its first column, `card` the models it compares, in order.

    `models` are all models with a published column; `sources` and `notes` say where each column stands.
    """

    suite: str
    header: str
    card: tuple[str, ...]
    models: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    sources: Mapping[str, str]
    notes: Mapping[str, str]

    def row(self, label: str) -> PublishedRow | None:
        """The row of that label, or None."""
        return next((row for row in self.rows if row.label == label), None)

    def unit(self, label: str) -> str:
        """The unit of a row, "percent" where the card has no such row."""
        row = self.row(label)
        return row.unit if row else "percent"


def decimals(text: str) -> int:
    """Digits after the point of a printed number: "7.43" has 2, "54" none."""
    return len(text.partition(".")[2])


def best(cells: Mapping[str, str]) -> set[str]:
    """The columns whose printed number is the row's largest (ties: all of them)."""
    values = {column: Decimal(text) for column, text in cells.items()}
    top = max(values.values(), default=None)
    return {column for column, value in values.items() if value == top}


@functools.cache
def load(suite: str) -> PublishedTable:
    """The published table of "base" or "instruct"."""
    if suite not in SUITES:
        raise UserError(f"no published table for the suite '{suite}': known are {', '.join(SUITES)}")
    data = tomllib.loads((FOLDER / f"{suite}.toml").read_text(encoding="utf-8"))
    rows = tuple(
        PublishedRow(row["label"], row["docs"], row["unit"], row["published"]) for row in data["rows"]
    )
    models = data["models"]
    return PublishedTable(
        suite=data["suite"],
        header=data["header"],
        card=tuple(data["card"]),
        models=tuple(models),
        rows=rows,
        sources={name: entry["source"] for name, entry in models.items()},
        notes={name: entry["note"] for name, entry in models.items() if "note" in entry},
    )
