"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

LINE_SECONDS = 15.0  # between two plain lines
SEEN = 0.02  # share of the work before which no time left is told: the first batch says little


@contextmanager
def outliving_readers(stream: TextIO) -> Iterator[None]:
    """Around lines for people: who reads them may go away (head, a closed terminal) without ending the work."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
        with outliving_readers(sys.stderr):
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def counting(
        self, label: str, total: int, done: int, work: float | None = None, at_a_time: int = 1
    ) -> Iterator[Counter]:
        """Shows one row: `total` requests, `done` of them stored before; `work` is what the others cost together.

        Costs are in any unit (tokens, say); by default each request costs 1. `at_a_time`: requests under way together.
        """
        left = _Left(float(total - done) if work is None else work, total - done, at_a_time)
        if self.terminal and total > done:
            with _bar(label, total, done, left) as counter:
                yield counter
        else:
            yield _Lines(label, total, done, left)


class _Left:
    """The time left, by the work done so far; of what is under way, half is taken for done."""

    def __init__(self, work: float, requests: int, at_a_time: int) -> None:
        self.work, self.requests, self.at_a_time = work, requests, at_a_time
        self.finished, self.n_finished = 0.0, 0
        self.start = time.monotonic()

    def advance(self, work: float) -> None:
        """One request more is finished."""
        self.finished += work
        self.n_finished += 1

    def seconds(self) -> float | None:
        """About how long the rest takes; None as long as too little is done to tell."""
        if self.finished <= self.work * SEEN:
            return None
        under_way = min(self.at_a_time - 1, self.requests - self.n_finished)
        done = min(self.work, self.finished + under_way * self.work / self.requests / 2)
        return (time.monotonic() - self.start) * (self.work - done) / done


class _Lines:
    """A line of text now and then."""

    def __init__(self, label: str, total: int, done: int, left: _Left) -> None:
        self.label, self.total, self.done, self.left = label, total, done, left
        self.last = left.start

    def advance(self, work: float = 1.0) -> None:
        self.done += 1
        self.left.advance(work)
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS and self.done < self.total:
            seconds = self.left.seconds()
            if seconds is not None:
                self.last = now
                text = f"{self.label}: {self.done} of {self.total} requests, about {_span(seconds)} left"
                with outliving_readers(sys.stderr):
                    print(text, file=sys.stderr, flush=True)


@contextmanager
def _bar(label: str, total: int, done: int, left: _Left) -> Iterator[Counter]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description:<30}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[count]} of {task.fields[requests]}{task.fields[left]}"),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=left.work, count=done, requests=total, left="")

        class Bar:
            count = done

            def advance(self, work: float = 1.0) -> None:
                self.count += 1
                left.advance(work)
                seconds = left.seconds()
                text = "" if seconds is None else f", about {_span(seconds)} left"
                bars.update(task, advance=work, count=self.count, left=text)

        yield Bar()


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
