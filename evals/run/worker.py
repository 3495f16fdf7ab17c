"""A worker of a run on several: a process, started by Ray, that holds a model and computes what the driver sends it.

It reads no benchmark and writes no result to disk; all that it says goes back to the driver (cluster.py).
"""

from __future__ import annotations

import gc
import os
import queue
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.requests import Request, Result
from evals.run.background import ahead

if TYPE_CHECKING:
    from evals.models.known import ModelSpec

T = TypeVar("T")


@dataclass(frozen=True)
class About:
    """What a loaded model says of itself for one suite: what a `Backend` has, and what run.json tells.

    `spec`: with the commit of its weights, where they come from the hub.
    """

    identity: str
    at_a_time: int
    leaves_cpu: bool
    spec: ModelSpec
    described: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A worker holds the model `number`; one `About` a suite."""

    number: int
    suites: tuple[About, ...]


# What a worker says: first its host, so that it is known to be there; then models and results.
Word = str | Loaded | list[tuple[int, Result]]


class Worker:
    """Computes with one of `specs` at a time and may hold the next one already.

    `load(spec)`: the adapters of all suites (evals/adapters/build.py: Built). `environment`: the driver's settings,
    for libraries that are not imported before the first model is loaded.
    """

    def __init__(
        self, load: Callable[[ModelSpec], Any], specs: Sequence[ModelSpec], environment: Mapping[str, str]
    ) -> None:
        os.environ.update(environment)
        self._load, self._specs = load, specs
        self._built: dict[int, Any] = {}

    def work(
        self,
        number: int,
        oldest: int,
        suite: int = 0,
        requests: Sequence[Request] = (),
        skip: Sequence[int] = (),
    ) -> Iterator[Word]:
        """Loads a model, if it is not here yet, and computes `requests` except those at the indices `skip`.

        Models before `oldest` are let go first. At the end the model tells of itself again: memory has its peak then.
        Raises what loading or computing raises.
        """
        yield socket.gethostname()
        for past in [other for other in self._built if other < oldest]:
            del self._built[past]
            gc.collect()  # errors that libraries caught while they were imported hold the first model's frames
            if not gc.get_freeze_count():
                gc.freeze()  # what was imported: looking through it again takes a third of a second
        yield self._hold(number)
        if requests:
            yield from _batches(self._built[number].adapters[suite].run(requests, set(skip)))
            yield self._hold(number)

    def _hold(self, number: int) -> Loaded:
        if number not in self._built:
            self._built[number] = self._load(self._specs[number])
        built = self._built[number]
        suites = (
            About(one.identity, one.at_a_time, one.leaves_cpu, built.spec, one.described)
            for one in built.adapters
        )
        return Loaded(number, tuple(suites))


def _batches(results: Iterator[T]) -> Iterator[list[T]]:
    """Lists of what has come since the list before: the next are computed while one is on its way."""
    arrived: queue.SimpleQueue[T | None] = queue.SimpleQueue()

    def compute() -> None:
        try:
            for result in results:
                arrived.put(result)
        finally:
            arrived.put(None)  # no more will come

    computing = ahead(compute)
    while True:
        batch = [arrived.get()]
        while not arrived.empty():
            batch.append(arrived.get())
        if some := [result for result in batch if result is not None]:
            yield some
        if batch[-1] is None:
            return computing.result()
