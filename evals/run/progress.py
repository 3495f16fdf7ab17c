"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LINE_SECONDS = 15.0  # between two plain lines
SEEN = 0.05  # share of the work before which no time left is told
BATCHES = 3  # before which none is told: the first one says little
TOGETHER = 0.02  # share of the time so far within which results are taken for one batch's
AGREE = 1.5  # how many times faster or slower the last eighth of the time may have gone than the last half


@contextmanager
def outliving_readers(stream: TextIO) -> Iterator[None]:
    """Around lines for people: who reads them may go away (head, a closed terminal) without ending the work."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress:
    """Counts finished requests of one row at a time; everything goes to stderr, tables alone to stdout."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def note(self, text: str) -> None:
        """One line for people."""
        with outliving_readers(sys.stderr):
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def counting(self, label: str, total: int, done: int, work: float | None = None) -> Iterator[Counter]:
        """Shows one row: `total` requests, `done` of them stored before; `work` is what the others cost together.

        Costs are in any unit (tokens, say); by default each request costs 1.
        """
        counter = Counter(label, total, done, float(total - done) if work is None else work)
        if not self.terminal or total == done:
            yield counter
            return
        with _bar(counter) as counter.show:
            yield counter


class Counter:
    """Advances by finished requests, and shows it: by a line now and then, unless `show` is another way."""

    def __init__(self, label: str, total: int, done: int, work: float) -> None:
        self.label, self.total, self.done, self.left = label, total, done, _Left(work)
        self.show: Callable[[], None] = self._line
        self._shown = self.left.start

    def advance(self, work: float = 1.0) -> None:
        """One more is finished, and was `work` of the whole."""
        self.done += 1
        self.left.advance(work)
        self.show()

    def _line(self) -> None:
        now = time.monotonic()
        if now - self._shown >= LINE_SECONDS and self.done < self.total:
            self._shown = now
            Progress().note(f"{self.label}: {self.done} of {self.total} requests, {self.left.words}")


class _Left:
    """The time left, by the work done in the last half of the time.

    It is told only once it can be known: the first batches read prompts that later ones share, warm the machine up, or
    hold the longest answers. So there must be several of them, and the last eighth of the time must have gone about as
    fast as the last half.
    """

    def __init__(self, work: float) -> None:
        self.work, self.finished, self.batches = work, 0.0, 0
        self.start = time.monotonic()
        self.batch = 0.0  # when the results began to come that come now: a batch's come together
        self.seen = [(0.0, 0.0)]  # (seconds, work) after each batch, from before the last half of the time on

    def advance(self, work: float) -> None:
        """One request more is finished."""
        now = time.monotonic() - self.start
        if now - self.batch > TOGETHER * now:
            if self.finished:
                self.batches += 1
                self.seen.append((self.batch, self.finished))
                self.seen = [*self.seen[self._before(1 / 2) :]]
            self.batch = now
        self.finished += work

    def _before(self, share: float) -> int:
        """The position in `seen` of the last batch before the last `share` of the time."""
        edge = self.seen[-1][0] * (1 - share)
        return max(k for k, (seconds, _) in enumerate(self.seen) if k == 0 or seconds <= edge)

    def seconds(self) -> float | None:
        """About how long the rest takes; None as long as that cannot be told."""
        then, done = self.seen[-1]
        if self.batches < BATCHES or done <= self.work * SEEN:
            return None
        starts = (self.seen[self._before(share)] for share in (1 / 2, 1 / 8))
        half, eighth = ((done - before) / (then - earlier) for earlier, before in starts)
        if not half > 0 or not 1 / AGREE <= eighth / half <= AGREE:
            return None
        return max(0.0, (self.work - done) / half - (time.monotonic() - self.start - then))

    @property
    def words(self) -> str:
        """The time left in words."""
        seconds = self.seconds()
        return "estimating the time left" if seconds is None else f"about {span(seconds)} left"


@contextmanager
def _bar(counter: Counter) -> Iterator[Callable[[], None]]:
    """What moves a bar on, drawn ten times a second."""
    from rich import progress as rich
    from rich.console import Console

    text = rich.TextColumn("{task.description:<30}"), rich.TextColumn("{task.fields[left]}")
    columns = text[0], rich.BarColumn(), rich.MofNCompleteColumn(), text[1]
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(counter.label, total=counter.total, completed=counter.done, left="")
        shown = 0.0

        def show() -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown > 0.1:
                bars.update(task, completed=counter.done, left=counter.left.words)
                shown = now

        yield show


def span(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
