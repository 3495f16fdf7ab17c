"""A worker of a run on several: a process, started by Ray, that holds a model and computes what the driver sends it.

It reads no benchmark and writes no result to disk; all that it says goes back to the driver (cluster.py).
"""

from __future__ import annotations

import gc
import os
import queue
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.requests import GenerateRequest, Request, Result, ScoreRequest
from evals.run.background import ahead
from evals.run.shares import shared, tokens_of

if TYPE_CHECKING:
    from evals.models.known import ModelSpec

T = TypeVar("T")
_END: Any = object()


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


Packed = tuple[int, Request]


def pack(requests: Sequence[Request]) -> list[Packed]:
    """Requests to send: of tokens that one begins with as the one before does, only how many they are."""
    packed = []
    before: tuple[int, ...] = ()
    for request in requests:
        tokens = tokens_of(request)
        common = shared(before, tokens)
        packed.append((common, _with_tokens(request, tokens[common:])))
        before = tokens
    return packed


def unpack(packed: Sequence[Packed]) -> list[Request]:
    """What was packed."""
    requests = []
    before: tuple[int, ...] = ()
    for common, request in packed:
        before = before[:common] + tokens_of(request)
        requests.append(_with_tokens(request, before))
    return requests


def _with_tokens(request: Request, tokens: tuple[int, ...]) -> Request:
    if isinstance(request, ScoreRequest):
        return ScoreRequest(tokens, request.n_continuation)
    assert isinstance(request, GenerateRequest)
    return replace(request, prompt=tokens)


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
        packed: Sequence[Packed] = (),
        skip: Sequence[int] = (),
    ) -> Iterator[Word]:
        """Loads a model, if it is not here yet, and computes `packed` requests except those at the indices `skip`.

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
        if packed:
            adapter, requests = self._built[number].adapters[suite], unpack(packed)
            yield from _batches(adapter.run(requests, set(skip)))
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
    arrived: queue.SimpleQueue[T] = queue.SimpleQueue()

    def compute() -> None:
        try:
            for result in results:
                arrived.put(result)
        finally:
            arrived.put(_END)

    computing = ahead(compute)
    batch: list[T] = []
    while not batch or batch[-1] is not _END:
        batch = [arrived.get()]
        while not arrived.empty():
            batch.append(arrived.get())
        if some := [result for result in batch if result is not _END]:
            yield some
    computing.result()
