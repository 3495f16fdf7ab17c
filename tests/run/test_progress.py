"""Plain lines of progress: the time left follows the work, not the number of requests."""

from __future__ import annotations

import pytest

from evals.run import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_work(capsys, clock):
    with progress.Progress().counting("PIQA", total=6, done=1, work=100.0) as counter:
        for second, work in ((4.0, 20.0), (8.0, 20.0), (12.0, 20.0), (16.0, 20.0)):
            clock[0] = second
            counter.advance(work)
    assert capsys.readouterr().err == "PIQA: 5 of 6 requests, about 4 s left\n"


def test_no_time_is_told_before_something_was_seen(capsys, clock):
    with progress.Progress().counting("PIQA", total=400, done=0, work=1000.0) as counter:
        clock[0] = 20.0
        counter.advance(100.0)
    assert capsys.readouterr().err == "PIQA: 1 of 400 requests, estimating the time left\n"


def test_lines_are_rare(capsys, clock):
    with progress.Progress().counting("PIQA", total=100, done=0) as counter:
        for second in range(60):
            clock[0] = float(second)
            counter.advance()
    assert capsys.readouterr().err.count("\n") == 3


def steady(share):
    return 100 * share


def slow_start(share):
    """A first twentieth that takes as long as the rest: what is shared is read, the machine gets warm."""
    return 50 * share / 0.05 if share <= 0.05 else 50 + 50 * (share - 0.05) / 0.95


def batches(share):
    """Results come twenty at a time."""
    return 100 * (int(share * 10 - 1e-9) + 1) / 10


def many_at_once(share):
    """64 answers under way together: none for a while, then one after the other."""
    return 24 + 76 * share


def slower(share):
    """Long answers last."""
    return 60 * share + 40 * share**3


@pytest.mark.parametrize("shape", [steady, slow_start, batches, many_at_once, slower])
def test_a_time_that_is_told_is_never_wildly_wrong(clock, shape):
    told = []
    with progress.Progress().counting("row", total=200, done=0) as counter:
        for k in range(1, 200):
            clock[0] = shape(k / 200)
            counter.advance()
            if (seconds := counter.left.seconds()) is not None:
                told.append((clock[0], seconds))
    end = shape(1.0)
    assert all((end - now) / 2 - 5 <= seconds <= 2 * (end - now) + 5 for now, seconds in told)
    if shape in (steady, batches, many_at_once):
        assert told and told[0][0] <= 0.6 * end
