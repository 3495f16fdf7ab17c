"""One, two and three real processes on real data: the same samples; a killed process, and how the run goes on."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.forks import Forks, wait_for
from tests.support.tiny_checkpoint import write_tiny_model

pytestmark = pytest.mark.data

# every way of computing: likelihood, plain and chat generation, shots, a conversation
TASKS = "hellaswag,arc,winogrande,trivia_qa,gsm8k,bbh_snarks,mt_bench"


class Launch:
    """The command on several processes, started as a launcher does, with a model of random weights."""

    def __init__(self, forks: Forks, folder: Path, data: Path) -> None:
        self.forks, self.folder, self.data = forks, folder, data
        self.model = write_tiny_model(folder / "tiny")
        self.logs: dict[int, Path] = {}

    def start(self, processes: int, output: str, *options: str) -> list[int]:
        """The processes, process 0 first."""
        with closing(socket.socket()) as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        command = ["--model", str(self.model), "--data", str(self.data), "--device", "cpu"]
        command += ["--output-dir", str(self.folder / output), "--dtype", "float32", *options]
        started = []
        for rank in range(processes):
            env = {"CUDA_VISIBLE_DEVICES": ""}
            if processes > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                env |= {"LOCAL_WORLD_SIZE": "64", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            log = self.folder / f"{len(self.logs)}.out"
            hook = "tests.run.test_processes:as_launched"
            pid = self.forks.start(command, log, hook, env, str(log.with_suffix(".err")))
            self.logs[pid] = log
            started.append(pid)
        return started

    def finish(self, started: list[int]) -> list[tuple[int, str, str]]:
        """(exit code, stdout, stderr) of each process."""
        return [
            (self.forks.wait(pid), self.logs[pid].read_text(), self.logs[pid].with_suffix(".err").read_text())
            for pid in started
        ]

    def run(self, processes: int, output: str, *options: str) -> dict[str, Any]:
        """A whole run's samples by suite and task; all but process 0 have to be silent."""
        leader, *others = self.finish(self.start(processes, output, *options))
        assert leader[0] == 0, leader[2]
        for other in others:
            assert other == (0, "", "")
        return samples(self.folder / output)

    def stored(self, output: str) -> int:
        """Records in the run's store now."""
        path = self.folder / output / ".cache" / "requests.sqlite"
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def as_launched(env: dict[str, str], errors: str) -> None:
    """In the fork: a launcher's environment, and a file of its own for what goes to stderr."""
    os.environ |= env
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)


def samples(output: Path) -> dict[str, Any]:
    found = {}
    for file in output.glob("*/*/samples/*.parquet"):
        suite = file.parent.parent.name.split("-")[1]
        found[f"{suite} {file.stem}"] = pq.read_table(file).to_pylist()
    assert found
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Every column equal; log-probabilities up to the rounding of sums in another order."""
    assert one.keys() == other.keys()
    for name, rows in one.items():
        for row, twin in zip(rows, other[name], strict=True):
            logprobs, twins = row.pop("logprobs", []), twin.pop("logprobs", [])
            np.testing.assert_allclose(logprobs, twins, atol=1e-4, rtol=0)
            assert row == twin, name
            row["logprobs"], twin["logprobs"] = logprobs, twins


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture
def launch(forks: Forks, tmp_path: Path, data_dir: Path) -> Launch:
    return Launch(forks, tmp_path, data_dir.resolve())


def test_one_two_and_three_processes_give_the_same_samples(launch: Launch) -> None:
    options = ("--suite", "all", "--limit", "2", "--tasks", TASKS)
    alone = launch.run(1, "one", *options)
    assert len(alone) == 6 + 6  # ARC has two tasks; HellaSwag, ARC and GSM8K are in both suites
    for processes in (2, 3):
        assert_same(alone, launch.run(processes, f"team of {processes}", *options))


def test_a_killed_process_ends_the_run_and_any_number_goes_on(launch: Launch) -> None:
    options = ("--suite", "base", "--limit", "40", "--tasks", "gsm8k,trivia_qa")
    started = launch.start(2, "team", *options)
    wait_for(lambda: launch.stored("team") >= 10)
    os.kill(started[1], signal.SIGKILL)
    leader, _ = launch.finish(started)
    assert leader[0] == 2
    error = leader[2].splitlines()[-1]
    assert "process 1 of 2 on" in error and "run the same command again" in error
    assert "Traceback" not in leader[2] and not leader[1]
    kept = launch.stored("team")
    assert kept >= 10 and not list((launch.folder / "team").glob("*/*/run.json"))

    started = launch.start(3, "team", *options)
    leader, *others = launch.finish(started)
    assert leader[0] == 0 and all(other == (0, "", "") for other in others)
    told = sum(
        int(line.split(" of them stored before")[0].split()[-1])
        for line in leader[2].splitlines()
        if "stored before" in line
    )
    assert told == kept, "all that was stored is used"
    assert_same(samples(launch.folder / "team"), launch.run(1, "one", *options))


def test_the_others_end_when_the_leader_is_killed(launch: Launch) -> None:
    # results come in bursts: there must be far more to do than one of them, or all may be done before the kill
    options = ("--suite", "base", "--limit", "1000", "--tasks", "gsm8k,trivia_qa")
    started = launch.start(2, "team", *options)
    wait_for(lambda: launch.stored("team") >= 3)
    os.kill(started[0], signal.SIGKILL)
    assert launch.finish(started[1:]) == [(2, "", "")]


def test_a_mistake_is_told_once(launch: Launch) -> None:
    started = launch.start(2, "team", "--suite", "base", "--tasks", "nonsense")
    leader, other = launch.finish(started)
    assert leader[0] == 2 and len(leader[2].splitlines()) == 1 and "nonsense" in leader[2]
    assert other[1:] == ("", "")
