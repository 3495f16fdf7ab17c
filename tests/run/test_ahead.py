"""The next row's requests are made while this row's are computed, where the processor is free for it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.core.card import load_card
from evals.core.errors import RowUnavailable
from evals.core.requests import GenerateRequest, Generation, Request, Result, Score, ScoreRequest
from evals.data.sources import parse_source
from evals.run.background import ahead
from evals.run.loop import Run
from evals.run.progress import Progress
from evals.run.store import Store
from evals.run.work import Settings, prepare

WAIT = 20.0  # seconds, at most


class Adapter:
    """Scores by length. While a row is computed it waits for the next row's requests to be made."""

    chat = False
    at_a_time = 1

    def __init__(self, leaves_cpu: bool, broken: str = "") -> None:
        self.leaves_cpu, self.broken = leaves_cpu, broken
        self.identity = f"by length {leaves_cpu}"
        self.main = threading.current_thread()
        self.made = threading.Semaphore(0)
        self.threads: list[bool] = []
        self.waited: list[bool] = []

    def _made(self, docs: Sequence[Any]) -> None:
        self.threads.append(threading.current_thread() is self.main)
        self.made.release()
        if any(doc.task_name == self.broken for doc in docs):
            raise RowUnavailable("no requests for this row")

    def score_requests(self, docs: Sequence[Any]) -> list[list[ScoreRequest]]:
        self._made(docs)
        return [
            [ScoreRequest((1, len(doc.query), n, len(choice)), 1) for n, choice in enumerate(doc.choices)]
            for doc in docs
        ]

    def generate_requests(self, docs: Sequence[Any]) -> list[GenerateRequest]:
        self._made(docs)
        return [GenerateRequest((1, len(doc.query)), 5) for doc in docs]

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        self.made.acquire(timeout=WAIT)  # this row's own
        if self.leaves_cpu:
            self.waited.append(self.made.acquire(timeout=WAIT if len(self.waited) < 2 else 0))
            self.made.release()
        for i, request in enumerate(requests):
            answer = isinstance(request, GenerateRequest)
            yield i, Generation("7", (7,), "eos") if answer else Score(-float(sum(request.tokens)))


def run(tmp_path: Path, adapter: Adapter, **options: Any) -> Run:
    options = {"tasks": ["piqa", "openbook_qa", "gsm8k"], "output": tmp_path / "out", **options}
    settings = Settings(source=parse_source("smoke"), **options)
    (work,) = prepare([load_card("base")], settings)
    with Store.open(tmp_path / f"{adapter.leaves_cpu}{adapter.broken}.sqlite") as store:
        made = Run(work, adapter, store, settings, Progress())
        made.execute()
    return made


def test_the_next_rows_requests_are_made_meanwhile(tmp_path: Path) -> None:
    alone, meanwhile = Adapter(leaves_cpu=False), Adapter(leaves_cpu=True)
    expected, found = run(tmp_path, alone), run(tmp_path, meanwhile)
    assert meanwhile.waited[:2] == [True, True], "made while the row before was computed"
    assert alone.threads == [True] * 3 and meanwhile.threads == [True, False, False]
    assert found.columns == expected.columns and len(found.columns) == 3
    spans = [(name, row) for name, row, begin, end in found.spans if begin <= end]
    for row in ("PIQA", "OpenBookQA"):
        assert [name for name, own in spans if own == row] == ["tokenise", "score", "metrics"]


@pytest.mark.parametrize("leaves_cpu", [False, True])
def test_a_row_without_requests_is_left_out_alone(tmp_path: Path, leaves_cpu: bool) -> None:
    adapter = Adapter(leaves_cpu, broken="openbook_qa")
    adapter.waited = [True, True]  # no waiting here
    made = run(tmp_path, adapter)
    assert set(made.columns) == {"piqa", "gsm8k"}
    assert made.missing == {"openbook_qa": "no requests for this row"}


def test_what_goes_wrong_ahead_comes_with_the_result() -> None:
    def fails() -> None:
        raise KeyError("a")

    assert ahead(lambda: 7).result(WAIT) == 7
    with pytest.raises(KeyError, match="a"):
        ahead(fails).result(WAIT)
