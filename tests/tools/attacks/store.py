"""Attacks on the store of finished requests, its disk, its clock, and those who share it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.forks import ROOT, wait_for
from tests.support.run_bench import ALL, Bench, computed, samples
from tests.tools.attacks.stage import NotPossibleHere, Stage, add, attack

SHORT = "tests.support.run_bench:short_answers"
ENVIRONMENT = "tests.tools.attacks.hooks:environment"
KILLS = 10
DAY = 86_400.0


@attack("store")
def killed_ten_times(stage: Stage) -> str:
    """PIQA, GSM8K and MT-Bench killed (SIGKILL) at ten random moments"""
    shutil.copytree(ROOT / "tasks" / "smoke" / "mt_bench", stage.folder / "data" / "mt_bench")
    stage.bench()
    from tests.support.run_bench import write_data

    write_data(stage.folder / "data")
    options = ("--suite", "instruct", "--tasks", "piqa,gsm8k,mt_bench")
    whole, broken = stage.bench("whole"), stage.bench("broken")
    record = whole.run(*options)
    total, generator = computed(record), random.Random(13)
    counter = stage.folder / "count"
    counter.touch()
    for moment in sorted(generator.randrange(total) for _ in range(KILLS)):
        slow = ("tests.support.run_bench:slow", str(counter))
        pid = stage.forks.start(broken.arguments(*options), broken.log, *slow)
        wait_for(lambda moment=moment: counter.stat().st_size >= moment or broken.folders())  # type: ignore[misc]
        os.kill(pid, signal.SIGKILL)
        stage.forks.wait(pid)
    again = computed(broken.run(*options))
    assert samples(broken.last) == samples(whole.last), "other samples than an undisturbed run's"
    twice = counter.stat().st_size + again - total
    return f"samples equal; {total} requests, {max(0, twice)} computed twice"


@contextlib.contextmanager
def small_disk(place: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of its own at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPossibleHere(f"mounting needs rights that this account lacks: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, room: int = 0) -> Path:
    """Leaves so many bytes of room on a disk; the file that takes the rest."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, ballast.stat().st_size - room)
    return ballast


def twice(bench: Bench) -> dict[str, bytes]:
    """The samples of a run that finds some results stored by one with --limit, to the last bit."""
    bench.run("--limit", "2")
    bench.run()
    return samples(bench.last)


@attack("store", quick=True)
def full_disk_of_the_store(stage: Stage) -> str:
    """the store's disk is full, the results' is not"""
    expected, bench = twice(stage.bench("whole")), stage.bench()
    with small_disk(bench.output / ".cache") as disk:
        bench.run("--limit", "2")
        ballast = fill(disk)
        words = stage.run(bench.arguments(), SHORT).refused()
        ballast.unlink()
        assert computed(bench.run()) <= ALL - 6, "what was stored is lost"
    assert samples(bench.last) == expected, "other samples"
    return f"{words}; nothing lost, then samples equal"


@attack("store", quick=True)
def full_temporary_disk(stage: Stage) -> str:
    """the disk of temporary files is full"""
    expected, bench = stage.bench("whole"), stage.bench()
    expected.run()
    with small_disk(stage.folder / "tmp") as disk:
        ballast = fill(disk, room=8192)
        variables = {"TMPDIR": str(disk)}
        words = stage.run(bench.arguments(), ENVIRONMENT, variables).refused()
        ballast.unlink()
    bench.run()
    assert samples(bench.last) == samples(expected.last), "other samples"
    return words


def clock(jumps: list[float]) -> Callable[[Stage], str]:
    """The time of day jumps during a run, and then stays so for the next."""

    def act(stage: Stage) -> str:
        expected, bench = twice(stage.bench("whole")), stage.bench()
        bench.hook = ("tests.support.run_bench:jumping_clock", jumps)
        bench.run("--limit", "2")
        record = bench.run()
        assert samples(bench.last) == expected, "other samples"
        assert computed(record) == ALL - 6, "what was stored is computed again"
        timing = record["timing"]
        durations = [timing["total_seconds"], *timing["phases"].values()]
        durations += [end - begin for _, _, begin, end in timing["spans"]]
        assert all(0 <= seconds < 600 for seconds in durations), f"durations of {durations}"
        return "samples equal, stored results used, durations true"

    return act


add("store", "the clock jumps forward, a day at a time", clock([DAY] * 40))
add("store", "the clock jumps back, to 1990", clock([-100 * DAY] * 130))
add("store", "the clock jumps to and fro", clock([5 * DAY, -9 * DAY] * 50))


@attack("store")
def two_suites_at_once(stage: Stage) -> str:
    """two suites at once on one store"""
    suites = ("base", "instruct")
    alone = {suite: stage.bench(f"alone-{suite}") for suite in suites}
    for suite, bench in alone.items():
        bench.run("--suite", suite)
    together = stage.bench()
    logs = {suite: stage.folder / f"{suite}.log" for suite in suites}
    pids = {
        suite: stage.forks.start(together.arguments("--suite", suite), logs[suite], *together.hook)
        for suite in suites
    }
    codes = {suite: stage.forks.wait(pid) for suite, pid in pids.items()}
    assert set(codes.values()) == {0}, f"exit {codes}: {[log.read_text()[-300:] for log in logs.values()]}"
    for folder in together.folders():
        suite = json.loads((folder / "run.json").read_text())["suite"]
        assert samples(folder) == samples(alone[suite].last), f"other samples of {suite}"
    assert len(together.folders()) == 2
    return "each suite's samples equal those of a run alone"


@attack("store")
def anothers_store(stage: Stage) -> str:
    """another machine's store, of another dtype"""
    expected, there, here = stage.bench("whole"), stage.bench("there"), stage.bench("here")
    expected.run()
    there.run("--dtype", "bfloat16")
    shutil.copytree(there.output / ".cache", here.output / ".cache")
    assert computed(here.run()) == ALL, "results of another dtype were used"
    assert samples(here.last) == samples(expected.last), "other samples"
    return "all computed again, samples equal"


# The same weights, something beside them changed


def edit(file: str, **values: Any) -> Callable[[Path], None]:
    """Other values in a JSON file of the model."""

    def change(model: Path) -> None:
        path = model / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | values))

    return change


def another_vocabulary(model: Path) -> None:
    """Two letters change places in the tokenizer."""
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    path.write_text(json.dumps(content))


def another_template(model: Path) -> None:
    """A system message in the chat template."""
    path = model / "chat_template.jinja"
    path.write_text("<|im_start|>system\nBe brief.<|im_end|>\n" + path.read_text())


def changed(change: Callable[[Path], None]) -> Callable[[Stage], str]:
    """A run, the change, the run again: nothing that is stored may be used."""

    def act(stage: Stage) -> str:
        model = stage.copy("model")
        bench: Bench = stage.bench(model=model)
        options = ("--suite", "instruct")
        bench.run(*options)
        weights = (model / "model.safetensors").read_bytes()
        change(model)
        assert (model / "model.safetensors").read_bytes() == weights
        record = bench.run(*options)
        assert computed(record) == ALL, f"{ALL - computed(record)} stored results were used"
        return "all computed again"

    return act


add("store", "another tokenizer, the same weights", changed(another_vocabulary))
add("store", "another chat template, the same weights", changed(another_template))
add(
    "store",
    "another generation_config, the same weights",
    changed(edit("generation_config.json", eos_token_id=[1, 7])),
)
add(
    "store",
    "another tokenizer_config, the same weights",
    changed(edit("tokenizer_config.json", eos_token="a")),
)


@attack("store", quick=True)
def adapter_beside_the_weights(stage: Stage) -> str:
    """an adapter_config appears beside the same weights"""
    model = stage.copy("model")
    bench = stage.bench(model=model)
    bench.run()
    edit("adapter_config.json", peft_type="LORA", base_model_name_or_path="somewhere", r=8)(model)
    shutil.copy(model / "model.safetensors", model / "adapter_model.safetensors")
    return stage.run(bench.arguments(), SHORT).refused()
