"""One run on several workers, by Ray: on this machine, or on a cluster that runs already.

The driver (this process) reads data, makes tokens, divides requests, and alone writes the store; workers (worker.py)
compute. A worker that dies is replaced, and what it had not sent goes to others. Requests are those of one process, so
samples are too; log-probabilities are equal to the bit where batches are (one worker), else, in float32 on a CPU,
within 1e-4 nats.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evals.core.errors import UserError
from evals.core.requests import NotFinite, Request, Result, ScoreRequest, ScoreRequests
from evals.run import machines, shares
from evals.run.worker import About, Loaded, Word, Worker

if TYPE_CHECKING:
    from evals.models.known import ModelSpec
    from evals.prompting.requests import TextToRequests

PATIENCE = 300.0  # seconds without a single worker: nodes may start some minutes apart
DEATHS = 3  # of each worker, in a row, with no result between: the reason is one that lasts
# of the environment, also for workers on other hosts
SETTINGS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


class NoWorkers(UserError):
    """Workers cannot be had, or die again and again: no other model of the run would do better."""


@contextlib.contextmanager
def start(
    load: Callable[..., Any], specs: Sequence[ModelSpec], workers: int | None, address: str | None,
    device: str | None, on_note: Callable[[str], None],
) -> Iterator[Pool]:  # fmt: skip
    """Workers for a run's models, let go at the end. Raises UserError.

    `load(spec, threads=…, memory=…)` gives, in a worker, the adapters of all suites (evals/adapters/build.py: Built).
    `address`: of a cluster, "auto" for the one around this process; None starts Ray on this machine for the run.
    """
    with machines.connected(workers, address, device) as (ray, share):
        actor = ray.remote(Worker).options(
            num_cpus=share.threads, num_gpus=share.gpus, scheduling_strategy="SPREAD", max_restarts=0
        )
        environment = {name: os.environ[name] for name in SETTINGS if name in os.environ}
        load = functools.partial(load, threads=share.threads, memory=share.memory)
        new_actor = functools.partial(actor.remote, load, list(specs), environment)
        yield Pool(ray, new_actor, share.workers, specs, on_note)


@dataclass(eq=False)
class _Seat:
    """A worker as the driver sees it: its actor, the call under way, the model it was last asked for, its requests.

    `ahead`: the last model that it loaded, or tried to, before its turn. `host` is known once it has begun.
    """

    actor: Any
    call: Any = None
    number: int = -1
    ahead: int = 0
    stretch: list[int] = field(default_factory=list)
    host: str = ""


class Pool:
    """Workers that compute for the models of one run, one model after the other."""

    def __init__(
        self, ray: Any, new_actor: Callable[[], Any], workers: int, specs: Sequence[ModelSpec],
        on_note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.workers, self.specs = workers, list(specs)
        self._ray, self._new_actor, self._note = ray, new_actor, on_note
        self._seats = [_Seat(new_actor()) for _ in range(workers)]
        self._waiting: deque[list[int]] = deque()
        self._loaded: dict[int, Loaded] = {}
        self._current = self._deaths = 0
        self._employ(0)

    def about(self, number: int) -> tuple[About, ...]:
        """What a model says of itself, once a suite; waits until a worker has loaded it. Raises what loading raises."""
        while number not in self._loaded:
            self._employ(number)
            for _ in self._listen():
                pass
        return self._loaded[number].suites

    def compute(
        self, number: int, suite: int, requests: Sequence[Request], skip: Collection[int]
    ) -> Iterator[tuple[int, Result]]:
        """Results as they come, each index once. Raises what computing raises.

        Requests are divided alike whatever is skipped, so that work that goes on with as many workers has the batches
        it began with.
        """
        known = set(skip)
        stretches = shares.stretches(requests, self.workers, self.about(number)[suite].at_a_time)
        self._waiting.extend(stretch for stretch in stretches if not known.issuperset(stretch))
        try:
            while self._waiting or any(seat.stretch for seat in self._seats):
                self._employ(number, suite, requests, known)
                for i, result in self._listen():
                    known.add(i)
                    yield i, result
        finally:
            self._waiting.clear()
            for seat in self._seats:
                if seat.stretch:  # given up; a call under way cannot be taken back
                    self._replace(seat)

    def _employ(
        self, number: int, suite: int = 0, requests: Sequence[Request] = (), known: Collection[int] = ()
    ) -> None:
        """Gives every free worker something to do: its model, a stretch, and when there is none the next model.

        A new worker gets no stretch before it has loaded: it may have to wait for a node, and the stretch with it.
        """
        self._current = number
        for seat in self._seats:
            if seat.call is not None:
                continue
            if seat.number < number:
                self._ask(seat, number)
            elif self._waiting:
                seat.stretch = self._waiting.popleft()
                skip = [k for k, i in enumerate(seat.stretch) if i in known]
                some: Any = [requests[i] for i in seat.stretch]
                if isinstance(some[0], ScoreRequest):
                    some = ScoreRequests.of(some)  # smaller on its way
                self._ask(seat, number, suite, some, skip)
            elif seat.ahead <= number < len(self.specs) - 1:
                seat.ahead = number + 1
                self._ask(seat, number + 1)

    def _ask(self, seat: _Seat, number: int, *work: Any) -> None:
        seat.number = number
        call = seat.actor.work.options(num_returns="streaming")
        seat.call = call.remote(number, self._current, *work)

    def _listen(self) -> Iterator[tuple[int, Result]]:
        """Waits for a worker to say something; the results that have come by then."""
        calls = [seat.call for seat in self._seats if seat.call is not None]
        if not self._ray.wait(calls, num_returns=1, timeout=PATIENCE)[0]:
            if not any(seat.host for seat in self._seats):
                free = self._ray.available_resources()
                raise NoWorkers(
                    f"no worker could start within {PATIENCE:.0f} s; free now: "
                    f"{free.get('CPU', 0):g} cores, {free.get('GPU', 0):g} GPUs"
                )
            return
        ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        for seat in self._seats:
            if any(seat.call is call for call in ready):
                stretch = seat.stretch
                yield from ((stretch[k], result) for k, result in self._results(seat))

    def _results(self, seat: _Seat) -> list[tuple[int, Result]]:
        """A worker's next word, if it is results; whatever else it is, is dealt with."""
        from ray.exceptions import RayError, RayTaskError

        word: Word = []
        try:
            word = self._ray.get(next(seat.call))
        except StopIteration:
            seat.call, seat.stretch = None, []
        except RayTaskError as error:
            seat.call, failed, seat.number = None, seat.number, -1
            if failed == self._current:  # else it could not be loaded ahead: maybe it can when its turn comes
                if isinstance(error.cause, NotFinite):
                    raise NotFinite(seat.stretch[error.cause.index]) from error
                raise error.cause from error
        except RayError as error:  # of many kinds: the worker, its node or what it had sent is lost
            self._lose(seat, error)
        if isinstance(word, str):
            seat.host = word
        elif isinstance(word, Loaded):
            self._compare(seat, word)
        else:
            self._deaths = 0 if word else self._deaths
            return word
        return []

    def _compare(self, seat: _Seat, word: Loaded) -> None:
        """Results of workers are mixed, so all must have the same weights, dtype, kind of device and engine."""
        first = self._loaded.setdefault(word.number, word).suites[0].identity
        other = word.suites[0].identity
        if first != other and word.number == self._current:
            raise UserError(
                f"the worker on {seat.host} has another model, dtype or kind of device than the first one: results "
                f"would be mixed ({other[:150]} against {first[:150]})"
            )
        self._loaded[word.number] = word

    def _lose(self, seat: _Seat, error: Exception) -> None:
        """Another worker in place of a dead one; its stretch to whoever is free first."""
        self._deaths += 1
        if self._deaths >= DEATHS * self.workers:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise NoWorkers(
                f"workers died {self._deaths} times in a row (out of memory?), the last one with: {reason[:200]}; "
                "what was finished is kept: run the same command again, with fewer workers"
            )
        self._note(f"the worker on {seat.host or 'a new node'} has died: what it had to do is done by others")
        if seat.stretch:
            self._waiting.append(seat.stretch)
        self._replace(seat)

    def _replace(self, seat: _Seat) -> None:
        self._ray.kill(seat.actor)
        self._seats[self._seats.index(seat)] = _Seat(self._new_actor())


class ClusterBackend:
    """All workers as one back end (evals/core/requests.py: Backend) for one suite of the model `number`.

    `texts` makes requests of docs, in this process.
    """

    def __init__(self, pool: Pool, number: int, suite: int, texts: TextToRequests) -> None:
        self._pool, self._number, self._suite = pool, number, suite
        self.chat, self.tokenizer = texts.chat, texts.tokenizer
        self.score_requests, self.generate_requests = texts.score_requests, texts.generate_requests
        about = pool.about(number)[suite]
        self.identity, self.leaves_cpu = about.identity, about.leaves_cpu
        self.at_a_time = pool.workers * about.at_a_time

    @property
    def described(self) -> dict[str, Any]:
        """See Backend: one worker's, and how many there are."""
        described = self._pool.about(self._number)[self._suite].described
        machine = described["machine"]
        return {**described, "machine": {**machine, "device": f"{self._pool.workers} x {machine['device']}"}}

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """See Backend. Raises NotFinite, or whatever else a worker's adapter raises; NoWorkers."""
        return self._pool.compute(self._number, self._suite, requests, skip)
