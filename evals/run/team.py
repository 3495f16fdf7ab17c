"""One model on several processes: process 0 divides requests, the others compute their share and send results back.

Whoever calls ``TeamModel.run`` sees an adapter like any other, only faster.
"""

from __future__ import annotations

import itertools
import json
import queue
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evals.core.errors import EXIT_OK, EXIT_USAGE, RowUnavailable, UserError
from evals.core.requests import GenerateRequest, NotFinite, Request, Result, ScoreRequest
from evals.run import shares
from evals.run.messages import pack_requests, pack_results, unpack_requests, unpack_results
from evals.run.parallel import DONE, END, FAILED, IDENTITY, NEXT_MODEL, RESULTS, WORK, LeaderGone, Peer, Team

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

SEND_SECONDS = 0.5  # results are sent on at least this often
_WORK = struct.Struct("<IB")  # job, adapter
_JOB = struct.Struct(
    "<I"
)  # what is left of a job that process 0 gave up must not be taken for the next one's
_jobs = itertools.count(1)


class TeamModel:
    """In process 0: an adapter (see evals/runner.py) whose work is done by all processes.

    ``number`` tells the adapters of one model apart (plain and chat). A peer's results are believed only once it
    has told the same identity (weights, dtype, device, engine) as this process has.
    """

    def __init__(self, team: Team, adapter: Any, number: int) -> None:
        self.team, self.adapter, self.number = team, adapter, number
        self.chat: bool = adapter.chat
        self.identity: str = adapter.identity
        self.leaves_cpu: bool = adapter.leaves_cpu
        self.at_a_time: int = team.size * adapter.at_a_time
        self._job = 0

    def score_requests(self, docs: Sequence[Doc]) -> list[list[ScoreRequest]]:
        """One request a choice, for each doc."""
        return list(self.adapter.score_requests(docs))

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc."""
        return list(self.adapter.generate_requests(docs))

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """Computes requests of one kind: (index, result), each index once, but not those in ``skip``.

        The same requests are divided alike whatever is skipped, so that work that goes on with as many processes
        has the batches it began with. Raises UserError when a process fails or ends; RowUnavailable or NotFinite
        when a process's back end does.
        """
        mine, *others = shares.divide(requests, self.team.size)
        self._job = next(_jobs)
        waiting: dict[Peer, list[int]] = {}
        for peer, share in zip(self.team.peers, others, strict=True):
            skipped = [k for k, i in enumerate(share) if i in skip]
            if len(skipped) < len(share):
                head = json.dumps([self._job, self.number, skipped]).encode()
                work = pack_requests([requests[i] for i in share])
                peer.send(WORK, _JOB.pack(len(head)) + head + work)
                waiting[peer] = share
        for pair in self._own(requests, mine, skip):
            yield pair
            yield from self._arrived(waiting, wait=False)
        while waiting:
            yield from self._arrived(waiting, wait=True)

    def _own(
        self, requests: Sequence[Request], mine: Sequence[int], skip: Collection[int]
    ) -> Iterator[tuple[int, Result]]:
        """What this process computes itself."""
        own_skip = {k for k, i in enumerate(mine) if i in skip}
        try:
            for k, result in _run(self.adapter, [requests[i] for i in mine], own_skip):
                yield mine[k], result
        except NotFinite as error:
            raise NotFinite(mine[error.index]) from error

    def _arrived(self, waiting: dict[Peer, list[int]], wait: bool) -> Iterator[tuple[int, Result]]:
        """Results that have come from others; with ``wait``, at least one message's."""
        message = self.team.receive(None if wait else 0)
        while message is not None:
            peer, kind, content = message
            if kind == RESULTS and _JOB.unpack_from(content)[0] == self._job:
                share = waiting[peer]
                yield from ((share[i], result) for i, result in unpack_results(content[_JOB.size :]))
            elif kind == DONE and _JOB.unpack(content)[0] == self._job:
                del waiting[peer]
            elif kind == IDENTITY:
                self._compare(peer, json.loads(content))
            elif kind == FAILED:
                error, reason, job = json.loads(content)
                if error == "user":
                    raise UserError(f"{peer.name}: {reason}")
                if job == self._job:
                    raise (
                        NotFinite(waiting[peer][reason]) if error == "not finite" else RowUnavailable(reason)
                    )
            message = self.team.receive(0)

    def _compare(self, peer: Peer, identities: list[str]) -> None:
        if self.identity not in identities:
            raise UserError(
                f"{peer.name} has another model, dtype or kind of device than process 0: results would be mixed "
                f"({identities[0][:150]} against {self.identity[:150]})"
            )


def lead(team: Team, adapters: Sequence[Any]) -> list[TeamModel]:
    """Process 0: its adapters (one a suite, of the same weights) with the whole team behind each."""
    return [TeamModel(team, adapter, number) for number, adapter in enumerate(adapters)]


def assist(team: Team, models: Callable[[], Iterable[Sequence[Any]]]) -> int:
    """Process 1 and on, to its end: computes with each of ``models`` (its adapters) in turn; the exit code.

    It prints nothing: what goes wrong here is said by process 0.
    """
    try:
        for adapters in models():
            if not _serve(team, adapters):
                break
        return EXIT_OK
    except UserError as error:
        team.fail(str(error))
    except (LeaderGone, KeyboardInterrupt):
        pass
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        team.fail(f"{type(error).__name__}: {first[:300]}")
        raise
    return EXIT_USAGE


def _serve(team: Team, adapters: Sequence[Any]) -> bool:
    """Computes what process 0 sends; False when the run is over, True when a model follows."""
    leader = team.peers[0]
    leader.send(IDENTITY, json.dumps([adapter.identity for adapter in adapters]).encode())
    while True:
        message = team.receive()
        assert message is not None
        _, kind, content = message
        if kind in (NEXT_MODEL, END):
            return kind == NEXT_MODEL
        if kind == WORK:
            start = _JOB.size + _JOB.unpack_from(content)[0]
            job, number, skip = json.loads(content[_JOB.size : start])
            try:
                with _Sender(leader, job) as sender:
                    for pair in _run(adapters[number], unpack_requests(content[start:]), set(skip)):
                        sender.results.put(pair)
                        if leader.over.is_set():
                            break  # the next message tells whether the run has ended, or its leader
                if not leader.over.is_set():
                    leader.send(DONE, _JOB.pack(job))
            except RowUnavailable as error:
                leader.send(FAILED, json.dumps(["row", str(error), job]).encode())
            except NotFinite as error:
                leader.send(FAILED, json.dumps(["not finite", error.index, job]).encode())


def _run(adapter: Any, requests: Sequence[Request], skip: set[int]) -> Iterator[tuple[int, Result]]:
    yield from adapter.run(requests, skip) if skip else adapter.run(requests)


class _Sender:
    """Sends results on in the background, some together, so that computing never waits for the network."""

    def __init__(self, leader: Peer, job: int) -> None:
        self._job = job
        self.results: queue.Queue[tuple[int, Result] | None] = queue.Queue()
        self._leader = leader
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> _Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.results.put(None)
        self._thread.join()

    def _send(self) -> None:
        ended = False
        while not ended:
            pairs, since = [], time.monotonic()
            while not ended and (left := since + SEND_SECONDS - time.monotonic()) > 0:
                try:
                    pair = self.results.get(timeout=left)
                except queue.Empty:
                    break
                if pair is None:
                    ended = True
                else:
                    pairs.append(pair)
            if pairs:
                self._leader.send(RESULTS, _JOB.pack(self._job) + pack_results(pairs))
