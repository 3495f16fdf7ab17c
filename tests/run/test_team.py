"""The team's talk, with made-up adapters: two members in one process, each in a thread of its own."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pytest
import torch.distributed

from evals.core.errors import RowUnavailable, UserError
from evals.core.requests import GenerateRequest, Generation, NotFinite, Request, Result, Score, ScoreRequest
from evals.run import parallel
from evals.run.messages import pack_requests, pack_results, unpack_requests, unpack_results
from evals.run.parallel import Team
from evals.run.shares import divide
from evals.run.team import TeamModel, assist, lead

REQUESTS: list[Request] = [ScoreRequest((i % 7, i, i + 1), 1) for i in range(100)]


class Echo:
    """Scores a request by its tokens alone, so that any process gives the same."""

    chat = False

    def __init__(self, identity: str = "model A", failure: Exception | None = None) -> None:
        self.identity, self.failure = identity, failure
        self.leaves_cpu, self.at_a_time = False, 1
        self.seen: list[Request] = []

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        for i, request in enumerate(requests):
            if i in skip:
                continue
            if self.failure is not None and i == 3:
                raise self.failure
            self.seen.append(request)
            assert isinstance(request, ScoreRequest)
            yield i, Score(float(sum(request.tokens)))


def expected(requests: Sequence[Request]) -> dict[int, Result]:
    return dict(Echo().run(requests))


@pytest.fixture
def start() -> Callable[..., tuple[Team, list[threading.Thread], list[int]]]:
    """Starts a team of one leader and an assistant for each list of models."""

    def run(*assistants: Sequence[Any]) -> tuple[Team, list[threading.Thread], list[int]]:
        store = torch.distributed.HashStore()
        codes: list[int] = []

        def assistant(rank: int, models: Sequence[Any]) -> None:
            team = Team(rank, len(assistants) + 1, store)
            codes.append(assist(team, lambda: ([model] for model in models)))

        threads = [
            threading.Thread(target=assistant, args=(rank, models), daemon=True)
            for rank, models in enumerate(assistants, 1)
        ]
        for thread in threads:
            thread.start()
        return Team(0, len(assistants) + 1, store), threads, codes

    return run


Start = Callable[..., tuple[Team, list[threading.Thread], list[int]]]


def test_all_processes_compute_and_nothing_is_lost(start: Start) -> None:
    helpers = [Echo(), Echo()]
    own = Echo()
    team, threads, codes = start([helpers[0]], [helpers[1]])
    with team:
        (model,) = lead(team, [own])
        results = list(model.run(REQUESTS))
        assert len(results) == len(REQUESTS)
        assert dict(results) == expected(REQUESTS)
        assert all(len(one.seen) >= 25 for one in (own, *helpers))
        assert dict(model.run(REQUESTS[:2])) == expected(REQUESTS[:2])
        assert dict(model.run([])) == {}
    for thread in threads:
        thread.join(10)
    assert codes == [0, 0]


def test_what_is_known_is_skipped_and_divided_alike(start: Start) -> None:
    helper, own = Echo(), Echo()
    team, _, _ = start([helper])
    with team:
        model = TeamModel(team, own, 0)
        list(model.run(REQUESTS))
        shares = set(own.seen), set(helper.seen)
        own.seen, helper.seen = [], []
        skip = set(range(0, 100, 2))
        left = {i: result for i, result in expected(REQUESTS).items() if i not in skip}
        assert dict(model.run(REQUESTS, skip)) == left
        assert set(own.seen) < shares[0] and set(helper.seen) < shares[1]
        assert dict(model.run(REQUESTS, set(range(100)))) == {}


@pytest.mark.parametrize("process", [0, 1])
def test_a_score_that_is_no_number_is_traced_to_its_request(start: Start, process: int) -> None:
    class Broken(Echo):
        def run(
            self, requests: Sequence[Request], skip: Collection[int] = ()
        ) -> Iterator[tuple[int, Result]]:
            yield from list(super().run(requests))[:5]
            raise NotFinite(5)

    adapters = [Echo(), Echo()]
    adapters[process] = Broken()
    team, _, _ = start([adapters[1]])
    with team, pytest.raises(NotFinite) as failure:
        list(TeamModel(team, adapters[0], 0).run(REQUESTS))
    assert failure.value.index == divide(REQUESTS, 2)[process][5]


def test_a_second_model_follows(start: Start) -> None:
    first, second = Echo("one"), Echo("two")
    team, threads, codes = start([first, second])
    with team:
        for name in ("one", "two"):
            model = TeamModel(team, Echo(name), 0)
            assert dict(model.run(REQUESTS)) == expected(REQUESTS)
            team.next_model()
    threads[0].join(10)
    assert codes == [0] and first.seen and second.seen


def test_what_was_given_up_is_not_taken_for_the_next_work(start: Start) -> None:
    team, _, _ = start([Echo()])
    with team:
        model = TeamModel(team, Echo(), 0)
        given_up = model.run(REQUESTS)
        next(given_up)
        given_up.close()
        others = [ScoreRequest((9, 9, i), 1) for i in range(50)]
        assert dict(model.run(others)) == expected(others)


@pytest.mark.parametrize(
    ("failure", "kind", "says"),
    [
        (UserError("weights are broken"), UserError, "process 1 of 2 on .*: weights are broken"),
        (RowUnavailable("cannot score"), RowUnavailable, "cannot score"),
        (MemoryError("too much"), UserError, "MemoryError: too much"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_assistants_failure_is_told_by_the_leader(
    start: Start, failure: Exception, kind: type[Exception], says: str
) -> None:
    team, threads, _ = start([Echo(failure=failure)])
    with team, pytest.raises(kind, match=says):
        list(TeamModel(team, Echo(), 0).run(REQUESTS))
    threads[0].join(5)
    assert not threads[0].is_alive(), "an assistant that failed does not outlive the run"


def test_another_model_is_refused(start: Start) -> None:
    team, _, _ = start([Echo("model B")])
    with team, pytest.raises(UserError, match="has another model, dtype or kind of device"):
        list(TeamModel(team, Echo("model A"), 0).run(REQUESTS))


def test_an_assistant_that_ends_is_noticed(start: Start) -> None:
    class Vanishing(Echo):
        def run(
            self, requests: Sequence[Request], skip: Collection[int] = ()
        ) -> Iterator[tuple[int, Result]]:
            wire = team.peers[0]._connection
            with socket.socket(fileno=os.dup(wire.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)  # as the system does for a killed process
            yield from super().run(requests)

    own = Echo()
    team, _, _ = start([Vanishing()])
    with pytest.raises(UserError, match=r"process 1 of 2 on .* ended before its work was done"):
        list(TeamModel(team, own, 0).run(REQUESTS))


def test_too_few_processes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MEETING_SECONDS", 0.2)
    with pytest.raises(UserError, match="1 of 3 processes came within"):
        Team(0, 3, torch.distributed.HashStore())


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parallel.join() is None
    assert parallel.own_device("cuda:1") == "cuda:1"
    assert parallel.every_device("cpu") == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError, match="RANK is 2"):
        parallel.join()
    assert parallel.own_device("cuda:1") == "cuda:1"
    assert parallel.every_device("cpu") == "2 x cpu"


def test_requests_and_results_survive_the_journey() -> None:
    requests: list[Request] = [
        ScoreRequest((0, 2**32 - 1, 5), 2),
        GenerateRequest((7,), 20, ("Question:", "é\n"), 0.7, 2**40),
        GenerateRequest((1, 2, 3), 1),
    ]
    assert unpack_requests(pack_requests(requests)) == requests
    results: list[tuple[int, Result]] = [
        (3, Score(-0.1)),
        (0, Generation("né\ud800", (1, 70000), "stop")),
        (1, Generation("", (), "eos")),
    ]
    assert unpack_results(pack_results(results)) == results
    ((_, broken),) = unpack_results(pack_results([(0, Score(math.nan))]))
    assert isinstance(broken, Score) and math.isnan(broken.logprob)


def test_an_assistant_stops_computing_when_the_run_is_over(start: Start) -> None:
    class Endless(Echo):
        def run(
            self, requests: Sequence[Request], skip: Collection[int] = ()
        ) -> Iterator[tuple[int, Result]]:
            while True:
                time.sleep(0.01)
                yield 0, Score(0.0)

    team, threads, codes = start([Endless()])
    with team:
        results = TeamModel(team, Echo(), 0).run(REQUESTS)
        for _ in range(60):  # more than the leader's own half
            next(results)
    threads[0].join(10)
    assert codes == [0]
