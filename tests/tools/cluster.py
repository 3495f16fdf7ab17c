"""What workers cost and what they survive; ``python tests/tools/cluster.py --data DIR`` prints two tables.

Speed: one process against 1, 2, 4 workers. Efficiency is by counted tokens (read and generated), not by time: the
tokens of one process, divided by workers times the tokens of the busiest. Kills: on three nodes on this machine, a
worker, a node or the driver is killed at a random moment, again and again; each run must end with the same samples.
With --checkpoints N, instead: a sweep over N models of random weights, every likelihood row; what Ray costs there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from evals.run import machines  # noqa: E402
from tests.support.sample_files import assert_same, read_samples  # noqa: E402
from tests.support.tiny_checkpoint import write_tiny_model  # noqa: E402

COMMAND = """
import sys
from evals.cli import main
from tests.support.lent_models import count
count()
sys.exit(main(sys.argv[1:]))
"""
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


class Bench:
    """Runs of one command; what each process counted."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.folder, self.options = folder, options
        self.counts = folder / "counts"

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            COMMAND,
            *self.options,
            "--output-dir",
            str(self.folder / name),
            *options,
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def finish(self, name: str, driver: subprocess.Popen[bytes]) -> None:
        code = driver.wait()
        if code not in (0, 3):  # 3: rows for which there is no data
            raise SystemExit((self.folder / f"{name}.log").read_text()[-2000:] + f"\nexit code {code}")

    def forget(self) -> None:
        self.counts.mkdir(exist_ok=True)
        for path in self.counts.iterdir():
            path.unlink()

    def counted(self) -> dict[str, Counter[str]]:
        """By process: tokens "read" and "made", and "results"."""
        found: dict[str, Counter[str]] = {}
        for path in self.counts.iterdir():
            found[path.name] = Counter()
            for line in path.read_text().splitlines():
                what, number = line.split()
                found[path.name].update({what: int(number), "results": int(what == "made")})
        return found

    def results(self) -> int:
        return sum((counter["results"] for counter in self.counted().values()), 0)


def speed(bench: Bench, workers: list[int]) -> int:
    """The first table; the results of one process, counted."""
    print("| | wall s | computing s | tokens | busiest worker | efficiency | computing, times faster |")
    print("|---|---|---|---|---|---|---|")
    alone_tokens = alone_seconds = results = 0
    for n in [0, *workers]:
        name, begun = f"workers-{n}", time.monotonic()
        bench.forget()
        bench.finish(name, bench.start(name, *(["--workers", str(n)] if n else [])))
        wall = time.monotonic() - begun
        seconds = sum(computing(path) for path in (bench.folder / name).glob("*/*/run.json"))
        tokens = [counter["read"] + counter["made"] for counter in bench.counted().values()]
        if not n:
            alone_tokens, alone_seconds, results = sum(tokens), seconds, bench.results()
        else:
            assert_same(read_samples(bench.folder / "workers-0"), read_samples(bench.folder / name))
        label = f"{n} workers, the same samples" if n else "one process"
        share = alone_tokens / (max(n, 1) * max(tokens))
        print(f"| {label} | {wall:.0f} | {seconds:.1f} | {sum(tokens):,} | {max(tokens):,} | {share:.0%} | "
              f"{alone_seconds / seconds:.2f} |", flush=True)  # fmt: skip
    return results


def computing(record: Path) -> float:
    phases = json.loads(record.read_text())["timing"]["phases"]
    return sum(phases.get(name, 0.0) for name in ("score", "generate"))


def kills(bench: Bench, needed: int, times: int, generator: random.Random) -> None:
    """The second table."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(**NODE)
    print("\n| killed | after results | computed in all | of | twice | samples |\n|---|---|---|---|---|---|")
    again = 0
    for k, kind in zip(range(times), itertools.cycle(("worker", "node", "driver"))):
        name, moment = f"kill-{k}", generator.randrange(int(0.95 * needed))
        bench.forget()
        driver = bench.start(name, "--cluster", cluster.address)
        await_(lambda moment=moment, driver=driver: bench.results() >= moment or driver.poll() is not None)
        if kind == "worker":
            end([psutil.Process(int(generator.choice(live(bench))))])
        elif kind == "node":
            node = generator.choice(sorted(cluster.worker_nodes, key=lambda one: one.node_id))
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            end([raylet, *raylet.children(recursive=True)])
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(**NODE)
        else:
            driver.kill()
            driver.wait()
            driver = bench.start(name, "--cluster", cluster.address)
        bench.finish(name, driver)
        assert_same(read_samples(bench.folder / "workers-0"), read_samples(bench.folder / name))
        computed = bench.results()
        again += computed - needed
        print(
            f"| {kind} | {moment} | {computed} | {needed} | {computed / needed - 1:.1%} | the same |",
            flush=True,
        )
    print(f"\n{times} kills: {again / (times * needed):.1%} computed twice on average")
    cluster.shutdown()


LIKELIHOOD = "hellaswag,arc_easy,arc_challenge,piqa,mmlu,commonsense_qa,winogrande,openbook_qa"


def checkpoints(bench: Bench, n: int) -> None:
    """The third table: every request of every model is stored once, and computed once."""
    sweep = bench.folder / "sweep.txt"
    models = [str(write_tiny_model(bench.folder / "models" / f"step-{k}", seed=k)) for k in range(n)]
    sweep.write_text("\n".join(models))
    bench.options = ["--sweep", str(sweep), *bench.options]
    print(
        f"| {n} checkpoints | wall s | requests stored | computed | against one process |\n|---|---|---|---|---|"
    )
    alone = 0.0
    for workers in (0, 1, 2):
        name, begun = f"sweep-{workers}", time.monotonic()
        bench.forget()
        bench.finish(name, bench.start(name, *(["--workers", str(workers)] if workers else [])))
        wall = time.monotonic() - begun
        alone = alone or wall
        with closing(sqlite3.connect(bench.folder / name / ".cache" / "requests.sqlite")) as store:
            (stored,) = store.execute("SELECT count(*) FROM records").fetchone()
        if bench.results() != stored:
            raise SystemExit(f"{bench.results()} results were computed for {stored} that are stored")
        assert_same(read_samples(bench.folder / "sweep-0"), read_samples(bench.folder / name))
        label = f"{workers} workers, the same samples" if workers else "one process"
        print(
            f"| {label} | {wall:.0f} | {stored:,} | {bench.results():,} | {wall / alone - 1:+.0%} |",
            flush=True,
        )


def live(bench: Bench) -> list[str]:
    pids = sorted(name for name in bench.counted() if psutil.pid_exists(int(name)))
    assert pids, "no worker to kill"
    return pids


def end(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()


def await_(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def main() -> None:
    """The tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a folder of benchmarks, or smoke")
    parser.add_argument("--model", help="a folder or .gguf file (default: random weights)")
    parser.add_argument("--limit", default="60")
    parser.add_argument("--tasks", help="default: all rows of both suites")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--checkpoints", type=int, default=0, help="a sweep over so many models instead")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ.update(machines.QUIET, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="ab" * 16)
        os.environ.update(COUNTS=str(folder / "counts"), PYTHONPATH=str(ROOT))
        options = [
            "--data",
            args.data,
            "--limit",
            args.limit,
            "--no-plan",
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ]
        if args.checkpoints:
            tasks = ["--suite", "base", "--tasks", args.tasks or LIKELIHOOD]
            return checkpoints(Bench(folder, options + tasks), args.checkpoints)
        model = args.model or str(write_tiny_model(folder / "tiny"))
        options += ["--model", model, "--suite", "all", *(["--tasks", args.tasks] if args.tasks else [])]
        bench = Bench(folder, options)
        needed = speed(bench, [int(n) for n in args.workers.split(",")])
        if args.kills:
            kills(bench, needed, args.kills, random.Random(args.seed))


if __name__ == "__main__":
    main()
