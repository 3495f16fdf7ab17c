"""Threads in the background: one that does one kind of work soon after it is asked to, one that works ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

REST = 50  # times the processor time that a piece of work took, the next one waits: 2 % of one core at most


class Chore:
    """Does ``work`` within ``delay`` seconds or so of each ask(); several asks in that time are one.

    Time spent waiting for a disk does not count as work: a slow disk does not make the next piece later.
    """

    def __init__(self, work: Callable[[], None], delay: float) -> None:
        self._work, self._delay = work, delay
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None  # what the last piece of work raised; who tells it clears it

    def ask(self) -> None:
        """Have the work done; called by one thread at a time. Starts the thread at the first call."""
        if self._wake.is_set():
            return
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread after the piece of work it may be doing; stopping twice is fine."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def stopped(self) -> bool:
        """Whether stop() was called."""
        return self._stop.is_set()

    def _run(self) -> None:
        rested = 0.0  # when the next piece may begin
        while self._wake.wait() and not self._stop.wait(max(self._delay, rested - time.monotonic())):
            self._wake.clear()
            if self._stop.is_set():  # stop() may have woken this thread just before the line above
                return
            start = time.thread_time()
            try:
                self._work()
            except Exception as error:  # told to the next caller: a thread has nobody to tell
                self.failure = error
            rested = time.monotonic() + REST * (time.thread_time() - start)


def ahead(work: Callable[[], T]) -> Future[T]:
    """Have ``work`` done by a thread meanwhile; what it raises comes with its result. It does not outlive the process,
    nor hold up its end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed over
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
