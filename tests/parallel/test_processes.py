"""One, two and three real processes on real data: the same samples; a killed process, and how the run goes on."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.hub.tiny import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.data

# every way of computing: likelihood, plain and chat generation, shots, a conversation
TASKS = "hellaswag,arc,winogrande,trivia_qa,gsm8k,bbh_snarks,mt_bench"


class Launch:
    """``run_evals.py`` on several processes, started as a launcher does, with a model of random weights."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.model = write_tiny_model(folder / "tiny")
        self.running: list[subprocess.Popen[str]] = []

    def start(self, processes: int, output: str, *options: str) -> list[subprocess.Popen[str]]:
        """The processes, process 0 first."""
        with closing(socket.socket()) as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        command = [sys.executable, "run_evals.py", "--model", str(self.model), "--data", str(self.data)]
        command += ["--output-dir", str(self.folder / output), "--dtype", "float32", *options]
        started = []
        for rank in range(processes):
            env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            if processes > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                env |= {"LOCAL_WORLD_SIZE": "64", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        self.running += started
        return started

    def finish(self, started: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
        """(exit code, stdout, stderr) of each process."""
        ended = []
        for process in started:
            out, err = process.communicate(timeout=400)
            ended.append((process.returncode, out, err))
        return ended

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


@pytest.fixture
def launch(tmp_path: Path, data_dir: Path) -> Iterator[Launch]:
    launch = Launch(tmp_path, data_dir.resolve())
    yield launch
    for process in launch.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_one_two_and_three_processes_give_the_same_samples(launch: Launch) -> None:
    options = ("--suite", "all", "--limit", "2", "--tasks", TASKS)
    alone = launch.run(1, "one", *options)
    assert len(alone) == 6 + 6  # ARC has two tasks; HellaSwag, ARC and GSM8K are in both suites
    for processes in (2, 3):
        assert_same(alone, launch.run(processes, f"team of {processes}", *options))


def test_a_killed_process_ends_the_run_and_any_number_goes_on(launch: Launch) -> None:
    options = ("--suite", "base", "--limit", "40", "--tasks", "gsm8k,trivia_qa")
    started = launch.start(2, "team", *options)
    wait_for(lambda: launch.stored("team") >= 10, started)
    started[1].send_signal(signal.SIGKILL)
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
    wait_for(lambda: launch.stored("team") >= 3, started)
    started[0].send_signal(signal.SIGKILL)
    assert launch.finish(started[1:]) == [(2, "", "")]


def test_a_mistake_is_told_once(launch: Launch) -> None:
    started = launch.start(2, "team", "--suite", "base", "--tasks", "nonsense")
    leader, other = launch.finish(started)
    assert leader[0] == 2 and len(leader[2].splitlines()) == 1 and "nonsense" in leader[2]
    assert other[1:] == ("", "")


def wait_for(condition: Any, started: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        for process in started:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)
