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
    with progress.Progress().counting("PIQA", total=4, done=1, work=100.0) as counter:
        clock[0] = 20.0
        counter.advance(80.0)
    assert capsys.readouterr().err == "PIQA: 2 of 4 requests, about 5 s left\n"


def test_no_time_is_told_before_something_was_seen(capsys, clock):
    with progress.Progress().counting("PIQA", total=400, done=0, work=1000.0) as counter:
        clock[0] = 20.0
        counter.advance(1.0)
    assert capsys.readouterr().err == ""


def test_lines_are_rare(capsys, clock):
    with progress.Progress().counting("PIQA", total=100, done=0) as counter:
        for second in range(60):
            clock[0] = float(second)
            counter.advance()
    assert capsys.readouterr().err.count("\n") == 3


def test_what_is_under_way_counts_half(capsys, clock):
    """40 answers at a time: when the first ends, the others are not at their beginnings."""
    with progress.Progress().counting("GSM8K", total=40, done=0, at_a_time=64) as counter:
        clock[0] = 20.0
        counter.advance()
        assert capsys.readouterr().err == "GSM8K: 1 of 40 requests, about 19 s left\n"  # 20 s · 19.5 / 20.5
        for _ in range(37):
            counter.advance()
        clock[0] = 40.0
        counter.advance()
    assert capsys.readouterr().err == "GSM8K: 39 of 40 requests, about 1 s left\n"  # 40 s · 0.5 / 39.5


def test_one_answer_at_a_time_is_counted_when_it_has_ended(capsys, clock):
    with progress.Progress().counting("GSM8K", total=4, done=0, at_a_time=1) as counter:
        clock[0] = 20.0
        counter.advance()
    assert capsys.readouterr().err == "GSM8K: 1 of 4 requests, about 60 s left\n"
