"""How runs and tasks are called on the site, and where their pages are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reports.boards import labels
from reports.runs import RowResult, Run
from reports.site.scripts import slug


@dataclass(frozen=True)
class Shown:
    """A run on the site: `key` names its page; `tells` are the words that tell it from the other runs of its model."""

    run: Run
    key: str
    tells: tuple[str, ...]

    @property
    def page(self) -> str:
        """Path of its page from the site's root."""
        return f"models/{self.key}.html"

    @property
    def name(self) -> str:
        """A name that no other run of the suite has."""
        return " · ".join((self.run.name, *self.tells))

    @property
    def title(self) -> str:
        """The name with the time of the run, for menus."""
        time = when(self.run)
        return self.name if not time or time in self.name else f"{self.name} · {time}"

    @property
    def under(self) -> str:
        """What stands below the model's name: what tells it apart, then number type, size, day."""
        model = self.run.model
        parts = [model.dtype, short(model.parameters) if model.parameters else None, when(self.run)[:10]]
        known = [part for part in parts if part and not any(tell.startswith(part) for tell in self.tells)]
        return " · ".join((*self.tells, *known))


def show(runs: Sequence[Run]) -> list[Shown]:
    """Gives every run a key and what tells it from the other runs of its model and suite."""
    keys = [slug(run.name, run.suite, run.folder.name, str(run.model.fingerprint)) for run in runs]
    return [Shown(run, key, _tells(run, runs)) for run, key in zip(runs, keys, strict=True)]


def task_page(task: str) -> str:
    """Path of a task's page from the site's root."""
    return f"tasks/{slug(task)}.html"


def when(run: Run) -> str:
    """When a run ended, as "2026-01-02 03:04"."""
    return run.log.provenance.finished.replace("T", " ")[:16]


def notes_text(row: RowResult) -> str:
    """The notes of a row, as one text."""
    return "; ".join(note.text for note in row.notes)


def _tells(run: Run, runs: Sequence[Run]) -> tuple[str, ...]:
    """As few words as tell the run from the others of its model and suite."""
    words = []
    alike = [other for other in runs if other.suite == run.suite and other.name == run.name]
    for tell in TELLS:
        if len({tell(one) for one in alike}) > 1:
            words.append(tell(run))
            alike = [other for other in alike if tell(other) == tell(run)]
    return tuple(word for word in words if word)


TELLS: tuple[Callable[[Run], str], ...] = (
    lambda run: str(run.model.quantization or run.model.dtype),
    lambda run: ", ".join(label.text for label in labels(run)),
    when,
    lambda run: run.folder.name,
)
"""What may tell a run from another of its model, the most telling first."""


def number(value: Any) -> float | int | None:
    """A number from a part of a run log that may hold anything; None for what is none, or none that can be shown."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return value if known else None


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 run", "2 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(number: int) -> str:
    """A count of parameters as people say it: 135M."""
    for size, letter in ((1_000_000_000, "B"), (1_000_000, "M")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
