"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_SECONDS = 15.0  # between two plain lines
SEEN = 0.02  # share of the work before which no time left is told: the first batch says little


class Counter(Protocol):
    """Advances by finished requests."""

    def advance(self, work: float = 1.0) -> None:
        """One more is finished, and was `work` of the whole."""


class Progress:
    """Counts finished requests of one row at a time; everything goes to stderr, tables alone to stdout."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def note(self, text: str) -> None:
        """One line for people."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def counting(self, label: str, total: int, done: int, work: float | None = None) -> Iterator[Counter]:
        """Shows one row: `total` requests, `done` of them stored before; `work` is what the others cost together.

        Costs are in any unit (tokens, say); by default each request costs 1.
        """
        work = float(total - done) if work is None else work
        if self.terminal and total > done:
            with _bar(label, total, done, work) as counter:
                yield counter
        else:
            yield _Lines(label, total, done, work)


class _Lines:
    """A line of text now and then."""

    def __init__(self, label: str, total: int, done: int, work: float) -> None:
        self.label, self.total, self.done, self.work = label, total, done, work
        self.finished = 0.0
        self.start = self.last = time.monotonic()

    def advance(self, work: float = 1.0) -> None:
        self.done += 1
        self.finished += work
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS and self.work * SEEN < self.finished and self.done < self.total:
            self.last = now
            left = (now - self.start) * max(0.0, self.work - self.finished) / self.finished
            text = f"{self.label}: {self.done} of {self.total} requests, about {_span(left)} left"
            print(text, file=sys.stderr, flush=True)


@contextmanager
def _bar(label: str, total: int, done: int, work: float) -> Iterator[Counter]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description:<30}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[count]} of {task.fields[requests]}, left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=work, count=done, requests=total)

        class Bar:
            count = done

            def advance(self, work: float = 1.0) -> None:
                self.count += 1
                bars.update(task, advance=work, count=self.count)

        yield Bar()


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
