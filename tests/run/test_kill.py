"""A real run on the embedded model, killed at twenty random moments, ends as if nothing had happened.

Twenty loads of the weights would take minutes, so the commands are forks of a process that has read them
(tests/support/forks.py); batches are smaller than usual, so that many kills fall between the first and the last.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import Forks, wait_for

KILLS = 20
BATCH_TOKENS = 256
THINGS = ("bread", "a lamp", "rain", "a bicycle", "paper", "honey", "a drum", "snow", "a clock", "wool")
PLACES = ("kitchen", "garden", "library", "harbour", "forest", "station", "school", "desert")


def questions(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        thing, place = THINGS[number % len(THINGS)], PLACES[number // len(THINGS) % len(PLACES)]
        labels = ["A", "B", "C", "D", "E"]
        texts = [PLACES[(number + 3 * step) % len(PLACES)] for step in range(5)]
        yield {
            "question": f"On day {number}, where would someone in the {place} look for {thing}?",
            "choices": {"label": labels, "text": texts},
            "answerKey": labels[number % 5],
        }


def write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def count_results(counter: str, batch_tokens: int) -> None:
    """In the fork: a byte in the file ``counter`` for each result that an engine hands over; smaller batches."""
    from evals.adapters.local import PrefixModel
    from evals.engine import scoring

    handle = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    run, prepare = PrefixModel.run, scoring.PrefixScorer.__init__

    def counted(self: PrefixModel, *given: Any) -> Iterator[Any]:
        for pair in run(self, *given):
            os.write(handle, b".")
            yield pair

    PrefixModel.run = counted  # type: ignore[method-assign]
    scoring.PrefixScorer.__init__ = lambda self, model: prepare(self, model, batch_tokens)  # type: ignore


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def only_run(output: Path) -> Path:
    (record,) = output.glob("*/*/run.json")
    return record.parent


@pytest.mark.slow
@pytest.mark.model
def test_twenty_kills_change_nothing(tmp_path: Path, embedded_path: Path) -> None:
    data = tmp_path / "data"
    write(data / "commonsense_qa" / "validation.jsonl", questions(160))
    write(
        data / "trivia_qa" / "validation.jsonl",
        (
            {"question": f"What is {number} plus {number}?", "answer": {"aliases": [str(2 * number)]}}
            for number in range(24)
        ),
    )

    def command(output: Path) -> list[str]:
        return ["--suite", "base", "--tasks", "commonsense_qa,trivia_qa", "--data", str(data), "--device", "cpu",
                "--dtype", "float32", "--output-dir", str(output)]  # fmt: skip

    generator = random.Random(7)
    with Forks(embedded_path) as forks:
        whole, counter, log = tmp_path / "whole", tmp_path / "whole.count", tmp_path / "whole.log"
        start = time.monotonic()
        hook = ("tests.run.test_kill:count_results", str(counter), BATCH_TOKENS)
        assert forks.run(command(whole), log, *hook) == 0, log.read_text()
        whole_seconds = time.monotonic() - start
        least = size(counter)

        broken, counter, log = tmp_path / "broken", tmp_path / "broken.count", tmp_path / "broken.log"
        hook = ("tests.run.test_kill:count_results", str(counter), BATCH_TOKENS)
        start = time.monotonic()
        for moment in sorted(generator.randrange(int(0.95 * least)) for _ in range(KILLS)):
            pid = forks.start(command(broken), log, *hook)
            wait_for(lambda moment=moment: size(counter) >= moment)  # type: ignore[misc]
            time.sleep(generator.uniform(0, 1))  # results come in bursts, a batch each
            os.kill(pid, signal.SIGKILL)
            assert forks.wait(pid) == -signal.SIGKILL
        assert not list(broken.glob("*/*/run.json"))
        assert forks.run(command(broken), log, *hook) == 0, log.read_text()
        broken_seconds = time.monotonic() - start

    computed = size(counter)
    print(
        f"{least} requests, {whole_seconds:.0f} s without a kill; with {KILLS} kills {computed} requests "
        f"({100 * (computed / least - 1):.1f} % more), {broken_seconds:.0f} s"
    )
    assert computed <= 1.05 * least
    samples = {file.name: file.read_bytes() for file in sorted((only_run(whole) / "samples").iterdir())}
    assert len(samples) == 2
    assert samples == {
        file.name: file.read_bytes() for file in sorted((only_run(broken) / "samples").iterdir())
    }
