"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LINE_SECONDS = 15.0  # between two plain lines


class Progress:
    """Counts finished requests of one row at a time; everything goes to stderr, tables alone to stdout."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def note(self, text: str) -> None:
        """One line for people."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def counting(self, label: str, total: int, done: int) -> Iterator[_Counter]:
        """Shows one row: `total` requests, of which `done` were stored before."""
        if self.terminal and total > done:
            with _bar(label, total, done) as counter:
                yield counter
        else:
            counter = _Lines(label, total, done)
            yield counter


class _Counter:
    """Advances by finished requests."""

    def advance(self, n: int = 1) -> None:
        """`n` more are finished."""


class _Lines(_Counter):
    def __init__(self, label: str, total: int, done: int) -> None:
        self.label, self.total, self.done, self.before = label, total, done, done
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS and self.done < self.total:
            self.last = now
            rate = (self.done - self.before) / (now - self.start)
            left = (self.total - self.done) / rate
            print(
                f"{self.label}: {self.done} of {self.total} requests, about {_span(left)} left",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[_Counter]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description:<30}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total - done)

        class Bar(_Counter):
            def advance(self, n: int = 1) -> None:
                bars.advance(task, n)

        yield Bar()


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
