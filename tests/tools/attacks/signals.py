"""Signals, readers that go away, and limits of files and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.forks import ROOT, wait_for
from tests.support.run_bench import ALL, Bench, computed, samples
from tests.tools.attacks.stage import Ended, NotPossibleHere, Stage, add, attack
from tests.tools.attacks.store import twice

HOOKS = "tests.tools.attacks.hooks"
MEGABYTE = 1 << 20


def sent(number: int, bench: Bench) -> tuple[int, str]:
    """A run that gets a signal after its fourth result: its exit code, and what it printed."""
    counter = bench.log.with_suffix(".count")
    pid = bench.forks.start(bench.arguments(), bench.log, "tests.support.run_bench:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 4)
    os.kill(pid, number)
    return bench.forks.wait(pid), bench.log.read_text()


@attack("signals")
def hangup(stage: Stage) -> str:
    """HUP in the middle of a run: its terminal is closed"""
    expected, bench = stage.bench("whole"), stage.bench()
    expected.run()
    code, text = sent(signal.SIGHUP, bench)
    assert code == 130, f"exit {code}: {text[-300:]}"
    assert "Go on with" in text, text[-300:]
    left = computed(bench.run())
    assert left <= ALL - 4, "what was done is lost"
    assert samples(bench.last) == samples(expected.last), "other samples"
    return f"exit 130, says how to go on; {ALL - left} of {ALL} results kept, then samples equal"


@attack("signals")
def pipe(stage: Stage) -> str:
    """PIPE in the middle of a run"""
    expected, bench = stage.bench("whole"), stage.bench()
    expected.run()
    code, text = sent(signal.SIGPIPE, bench)
    assert code == 0, f"exit {code}: {text[-300:]}"
    (folder,) = bench.folders()
    assert samples(folder) == samples(expected.last), "other samples"
    return "ignored: exit 0, samples equal"


@attack("signals")
def nobody_listens(stage: Stage) -> str:
    """what reads stdout and stderr (head, a pager) goes away before the run begins"""
    expected, bench = stage.bench("whole"), stage.bench()
    expected.run()
    ended = stage.run(bench.arguments(), "tests.support.run_bench:nobody_listens")
    assert bench.folders() or ended.code not in (0, 3), f"exit {ended.code}, but nothing was measured"
    (folder,) = bench.folders()
    assert samples(folder) == samples(expected.last), "other samples"
    return f"the run goes on to its end: exit {ended.code}, samples equal"


def limited(name: str, amounts: list[int], above: bool = False) -> Callable[[Stage], str]:
    """The same run under each limit: it ends well, or with one line; then without: nothing was lost or spoiled."""

    def act(stage: Stage) -> str:
        expected, bench = stage.bench("whole"), stage.bench()
        expected.run()
        words = []
        for amount in amounts:
            ended = stage.run(bench.arguments("--fresh"), f"{HOOKS}:limit", name, amount, above)
            if ended.code:
                words.append(f"{_shown(amount)} {ended.refused()}")
            else:
                words.append(f"{_shown(amount)} enough")
        bench.run()
        assert samples(bench.last) == samples(expected.last), "other samples"
        return "; ".join(words)

    return act


def _shown(amount: int) -> str:
    return f"{amount // MEGABYTE} MB" if amount >= MEGABYTE else str(amount)


add("signals", "few open files (8, 12, 16, 24, 64)", limited("RLIMIT_NOFILE", [8, 12, 16, 24, 64]))
add("signals", "little address space (1, 8, 32, 128, 512 MB more than at the start)",
    limited("RLIMIT_AS", [n * MEGABYTE for n in (1, 8, 32, 128, 512)], above=True))  # fmt: skip
add("signals", "files of 4 KB, 64 KB, 1 MB at most", limited("RLIMIT_FSIZE", [4096, 1 << 16, MEGABYTE]))


def started(bench: Bench, *limits: tuple[int, int]) -> Ended:
    """The command from a shell's start on, imports and all, with `ulimit`."""

    def lower() -> None:
        for kind, amount in limits:
            resource.setrlimit(kind, (amount, amount))

    start = time.monotonic()
    command = [sys.executable, "run_evals.py", *bench.arguments("--limit", "2", "--tasks", "piqa")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, preexec_fn=lower, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - start)


def from_the_start(flag: str, kind: int, amount: int) -> Callable[[Stage], str]:
    """A process that has the limit before Python starts."""

    def act(stage: Stage) -> str:
        ended = started(stage.bench(), (kind, amount))
        return "enough: exit 0" if ended.code == 0 else ended.refused()

    return act


for files in (16, 64):
    add("signals", f"ulimit -n {files}", from_the_start("-n", resource.RLIMIT_NOFILE, files))
for megabytes in (300, 1000, 2500):
    add(
        "signals",
        f"ulimit -v {megabytes * 1024}",
        from_the_start("-v", resource.RLIMIT_AS, megabytes * MEGABYTE),
    )


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group whose processes may hold so many bytes together."""
    parents = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    for parent, file in zip(parents, ("memory.limit_in_bytes", "memory.max"), strict=True):
        folder = parent / f"attack-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / file).write_text(str(limit))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield folder
        finally:
            folder.rmdir()
        return
    raise NotPossibleHere("no control group can be made by this account")


@attack("signals")
def memory_of_a_control_group(stage: Stage) -> str:
    """a control group's memory limit (24 MB more than at the start)"""
    expected, bench = twice(stage.bench("whole")), stage.bench()
    bench.run("--limit", "2")
    with memory_group(24 * MEGABYTE) as folder:
        ended = stage.run(bench.arguments(), f"{HOOKS}:in_cgroup", str(folder))
    words = {0: "enough: exit 0", -signal.SIGKILL: "killed by the kernel"}.get(ended.code)
    words = words or ended.refused()
    left = computed(bench.run())
    assert left <= ALL - 6, "what was stored is lost"
    assert samples(bench.last) == expected, "other samples"
    return f"{words}; nothing lost, then samples equal"
