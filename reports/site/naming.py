"""How runs and tasks are called on the site, and where their pages are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.boards import labels
from reports.results import RowResult, Run
from reports.site.scripts import slug

SUITE_TITLES = {"base": "Base models", "instruct": "Instruct models"}


@dataclass(frozen=True)
class Shown:
    """A run on the site: `key` names its page, `name` tells it from the other runs of its suite."""

    run: Run
    key: str
    name: str

    @property
    def page(self) -> str:
        """Path of its page from the site's root."""
        return f"models/{self.key}.html"

    @property
    def under(self) -> str:
        """What stands below the name: number type, size, when."""
        model = self.run.model
        size = model.get("parameters")
        parts = [
            model["dtype"],
            f"{_short(size)} parameters" if isinstance(size, int) else None,
            when(self.run)[:10],
        ]
        return " · ".join(part for part in parts if part)


def show(runs: Sequence[Run]) -> list[Shown]:
    """Gives every run a key and a name that no other run of its suite has."""
    return [Shown(run, _key(run), _distinct(run, runs)) for run in runs]


def task_page(task: str) -> str:
    """Path of a task's page from the site's root."""
    return f"tasks/{slug(task)}.html"


def when(run: Run) -> str:
    """When a run ended, as "2026-01-02 03:04"."""
    return str(run.record["provenance"].get("finished") or "").replace("T", " ")[:16]


def notes_text(row: RowResult) -> str:
    """The notes of a row, as one text."""
    return "; ".join(note.text for note in row.notes)


def _key(run: Run) -> str:
    return slug(run.name, run.suite, run.folder.name, str(run.model["fingerprint"]))


def _distinct(run: Run, runs: Sequence[Run]) -> str:
    """The model's name, and as much more as tells the run from the others of its suite."""
    words = [run.name]
    alike = [other for other in runs if other.suite == run.suite and other.name == run.name]
    for tell in (
        lambda one: one.model["quantization"] or one.model["dtype"],
        _label_words,
        when,
        lambda one: one.folder.name,
    ):
        if len(alike) > 1 and len({str(tell(one)) for one in alike}) > 1:
            words.append(str(tell(run)))
            alike = [other for other in alike if tell(other) == tell(run)]
    return " · ".join(word for word in words if word)


def _label_words(run: Run) -> str:
    return ", ".join(label.text for label in labels(run))


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 run", "2 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(number: int) -> str:
    for size, letter in ((1_000_000_000, "B"), (1_000_000, "M")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
