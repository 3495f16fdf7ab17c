"""Workers by Ray, on a cluster of three nodes on this machine: the same results whoever computes and whoever dies."""

from __future__ import annotations

import functools
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from evals.cli import main
from evals.core.errors import UserError
from evals.core.requests import GenerateRequest, NotFinite, Request, Result, Score, ScoreRequest
from evals.run import cluster as pools
from evals.run.cluster import NoWorkers, Pool
from tests.support import lent_models
from tests.support.forks import wait_for
from tests.support.lent_models import CARDS, FREE, OPTIONS, Broken, load, spec_of
from tests.support.run_bench import GSM8K, PIQA, write_jsonl
from tests.support.sample_files import assert_same, read_samples
from tests.support.tiny_checkpoint import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hf_neverToBeWrittenDown"
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}

rng = random.Random(5)
STARTS = [tuple(rng.randrange(3, 250) for _ in range(30)) for _ in range(10)]
SCORES: list[Request] = [
    ScoreRequest((*start, *(rng.randrange(3, 250) for _ in range(rng.randrange(2, 9)))), 1)
    for start in STARTS
    for _ in range(12)
]
ANSWERS: list[Request] = [GenerateRequest((*start, i), 6) for start in STARTS for i in range(3, 7)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Ray's own cluster for tests: a head and two more nodes of one core each, as processes of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "ab" * 16,
            "HF_TOKEN": SECRET,
        }.items():
            patch.setenv(name, value)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(**NODE)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_tiny_model(folder / "one"), write_tiny_model(folder / "two", seed=1)]


@pytest.fixture
def start(nodes: Any, models: list[Path], tmp_path: Path) -> Iterator[Callable[..., Pool]]:
    """Starts a pool of so many workers for both models."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def begin(workers: int, loads: Callable[..., Any] = load, **given: Any) -> Pool:
            given = {"folder": tmp_path, **given} if loads is not lent_models.ends else given
            loader = functools.partial(loads, **given)
            specs = [spec_of(path) for path in models]
            return stack.enter_context(
                pools.start(loader, specs, workers, nodes.address, "cpu", lambda text: None)
            )

        yield begin


@pytest.fixture(scope="module")
def alone(models: list[Path]) -> Callable[..., dict[int, Result]]:
    """The results of this process alone."""

    @functools.cache
    def computed(model: int, answers: bool) -> dict[int, Result]:
        from evals.adapters.build import build

        (adapter,) = build(spec_of(models[model]), CARDS, OPTIONS, offline=True).adapters
        return dict(adapter.run(ANSWERS if answers else SCORES))

    return computed


def run(pool: Pool, requests: list[Request], model: int = 0, skip: tuple[int, ...] = ()) -> dict[int, Result]:
    pool.about(model)
    pairs = list(pool.compute(model, 0, requests, skip))
    assert len(dict(pairs)) == len(pairs), "each index once"
    return dict(pairs)


def assert_close(found: dict[int, Result], expected: dict[int, Result]) -> None:
    """The same answers; scores up to the rounding of sums in another order."""
    assert found.keys() == expected.keys()
    for i, result in expected.items():
        if isinstance(result, Score):
            assert math.isclose(found[i].logprob, result.logprob, abs_tol=1e-4, rel_tol=0)  # type: ignore
        else:
            assert found[i] == result


def computed(folder: Path) -> int:
    return (folder / "results").stat().st_size


def workers(folder: Path) -> set[int]:
    """The processes that have loaded a model and live."""
    return {int(pid) for pid in (folder / "pids").read_text().split() if lives(int(pid))}


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_one_worker_gives_the_bits_of_one_process(nodes: Any, start: Any, alone: Any) -> None:
    pool = start(1)
    assert run(pool, SCORES) == alone(0, False)
    assert run(pool, ANSWERS) == alone(0, True)
    assert run(pool, []) == {}
    half = tuple(range(0, len(SCORES), 2))
    assert run(pool, SCORES, skip=half) == {i: alone(0, False)[i] for i in range(1, len(SCORES), 2)}
    assert run(pool, SCORES, skip=tuple(range(len(SCORES)))) == {}

    logs = [path for path in Path(nodes.head_node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert any("worker" in path.name for path in logs)
    assert not any(SECRET.encode() in path.read_bytes() for path in logs)


@pytest.mark.slow
def test_lost_workers_and_nodes_change_nothing(nodes: Any, start: Any, alone: Any, tmp_path: Path) -> None:
    pool = start(3)
    (tmp_path / "hold").touch()
    for kill in (
        lambda: os.kill(min(workers(tmp_path)), signal.SIGKILL),
        functools.partial(remove_node, nodes),
    ):
        (tmp_path / "results").unlink(missing_ok=True)
        results = pool.compute(0, 0, SCORES, ())
        found = dict(next(results) for _ in range(3 * FREE))  # all three wait now
        before = workers(tmp_path)
        kill()
        wait_for(lambda before=before: len(before & workers(tmp_path)) == 2)  # type: ignore[misc]
        (tmp_path / "hold").unlink()
        assert_close(found | dict(results), alone(0, False))
        assert computed(tmp_path) <= 1.05 * len(SCORES)
        assert_close(run(pool, ANSWERS), alone(0, True))
        (tmp_path / "hold").touch()
    nodes.add_node(**NODE)


def remove_node(nodes: Any) -> None:
    """Takes away, as by a power cut, a node on which there is a worker."""
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)


@pytest.mark.slow
def test_an_idle_worker_loads_the_next_model(start: Any, alone: Any, tmp_path: Path) -> None:
    pool = start(2, free=0, until="loaded-two")
    (tmp_path / "hold").touch()
    # one worker has this request, and holds it until the other one, with nothing to do, has loaded the second model
    assert_close(run(pool, SCORES[:1]), {0: alone(0, False)[0]})
    assert_close(run(pool, SCORES, model=1), alone(1, False))
    # it was not loaded again; the other worker may have been too late for any of this
    assert (tmp_path / "loaded-two").stat().st_size <= 2


@pytest.mark.slow
def test_a_score_that_is_no_number_is_traced_to_its_request(start: Any) -> None:
    pool = start(1, kind=Broken)
    with pytest.raises(NotFinite) as failure:
        run(pool, SCORES)
    assert failure.value.index == 3
    with pytest.raises(NotFinite):  # work that was given up is not in the way of the next
        run(pool, SCORES, model=1)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_one_line(start: Any, models: list[Path], alone: Any) -> None:
    weights = models[0] / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:200])
        pool = start(1)
        with pytest.raises(UserError) as failure:
            pool.about(0)
        assert "\n" not in str(failure.value) and "Traceback" not in str(failure.value)
    finally:
        weights.write_bytes(whole)
    assert_close(run(pool, SCORES, model=1), alone(1, False))


@pytest.mark.slow
def test_other_weights_are_refused(start: Any, models: list[Path], tmp_path: Path) -> None:
    pool = start(2, lent_models.other_weights, other=spec_of(models[1]))
    (tmp_path / "hold").touch()
    with pytest.raises(UserError, match="has another model, dtype or kind of device"):
        run(pool, SCORES)


@pytest.mark.slow
def test_workers_that_always_die_end_the_run(start: Any) -> None:
    pool = start(1, lent_models.ends)
    with pytest.raises(NoWorkers, match="died 3 times in a row"):
        pool.about(0)


@pytest.mark.slow
def test_more_workers_than_there_is_room_for(start: Any) -> None:
    with pytest.raises(UserError, match="--workers 4: the cluster has room for 3"):
        start(4)


class Command:
    """``run_evals.py`` as a process of its own, on a model of random weights and made-up rows."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.data = folder, model, folder / "data"
        write_jsonl(self.data / "piqa" / "validation.jsonl", PIQA)
        write_jsonl(self.data / "gsm8k" / "train.jsonl", GSM8K)
        rows = [{**GSM8K[i % len(GSM8K)], "question": f"{GSM8K[0]['question']} ({i})"} for i in range(24)]
        write_jsonl(self.data / "gsm8k" / "test.jsonl", rows)

    def words(self, output: str, *options: str) -> list[str]:
        words = ["--model", str(self.model), "--data", str(self.data), "--suite", "base", *options]
        words += ["--output-dir", str(self.folder / output), "--dtype", "float32", "--device", "cpu"]
        return [*words, "--tasks", "piqa,gsm8k"]

    def start(self, output: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "run_evals.py", *self.words(output, *options)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, output: str, *options: str) -> str:
        """A whole run; what it told people, which is nothing of Ray's."""
        process = self.start(output, *options)
        _, told = process.communicate()
        assert process.returncode == 0, told
        assert "Ray" not in told and "raylet" not in told and "Traceback" not in told
        assert not list(Path("/tmp").glob(f"evals-*/session_*_{process.pid}")), "Ray leaves nothing behind"
        return told

    def stored(self, output: str) -> int:
        path = self.folder / output / ".cache" / "requests.sqlite"
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def samples(self, output: str) -> dict[str, Any]:
        return read_samples(self.folder / output)


@pytest.fixture
def command(models: list[Path], tmp_path: Path) -> Command:
    return Command(tmp_path, models[0])


@pytest.mark.slow
def test_workers_of_this_machine_and_a_driver_that_is_killed(nodes: Any, command: Command) -> None:
    cluster = ("--cluster", nodes.address, "--workers", "2")
    driver = command.start("cluster", *cluster)
    scores = 2 * len(PIQA)  # the first row: the second one, of answers, is under way
    wait_for(lambda: command.stored("cluster") > scores or driver.poll() is not None, 500)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    kept = command.stored("cluster")
    told = command.run("cluster", *cluster)
    counts = [line.split() for line in told.splitlines() if "stored before" in line]
    assert sum(int(words[words.index("of") - 1]) for words in counts) == kept, "all that was stored is used"
    command.run("here", "--workers", "2", "--plan")
    assert_same(command.samples("here"), command.samples("cluster"))
    assert main(command.words("alone")) == 0
    assert_same(command.samples("alone"), command.samples("here"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers", "2"], "pip install 'smol-evals[ray]'"),
        (["--cluster", "auto"], "pip install 'smol-evals[ray]'"),
        (["--workers", "0"], "at least 1"),
        (["--workers", "2", "--device", "cuda:1"], "each worker gets its own"),
        (["--cluster", "ray://host:1"], "HOST:PORT"),
    ],
)
def test_what_cannot_be_is_one_line(
    options: list[str], says: str, models: list[Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    given = ["--model", str(models[0]), "--suite", "base", "--data", "smoke", "--output-dir", str(tmp_path)]
    assert main([*given, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line


def test_a_cluster_that_is_not_there_is_one_line(models: list[Path], tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ray")
    given = ["--model", str(models[0]), "--suite", "base", "--data", "smoke", "--output-dir", str(tmp_path)]
    assert main([*given, "--cluster", "127.0.0.1:1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no Ray cluster can be reached at '127.0.0.1:1'" in line
