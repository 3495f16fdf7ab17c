"""A thread that works ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def ahead(work: Callable[..., T], *given: object) -> Future[T]:
    """Has ``work(*given)`` done by a thread meanwhile; what it raises comes with its result.

    The thread does not outlive the process, nor hold up its end, as an executor's would.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(*given))
        except BaseException as error:  # handed over
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
