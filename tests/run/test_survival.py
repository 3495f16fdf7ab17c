"""Runs that meet damage, full disks, too little memory, signals and each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.forks import Forks, wait_for
from tests.support.run_bench import ALL, PIQA, Bench, change_weight, computed, samples

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("place", [0.02, 0.3, 0.9])
def test_a_damaged_cache_changes_no_sample(bench: Bench, place: float) -> None:
    bench.run()
    expected = samples(bench.last)
    store = bench.output / ".cache" / "requests.sqlite"
    content = bytearray(store.read_bytes())
    at = int(place * len(content))
    content[at : at + 200] = os.urandom(200)
    store.write_bytes(content)
    bench.run()
    assert samples(bench.last) == expected


@pytest.mark.slow
def test_two_commands_at_once_ten_times(
    forks: Forks, tiny: Path, data: Path, tmp_path: Path, bench: Bench
) -> None:
    bench.run()
    expected = samples(bench.last)
    for attempt in range(10):
        output = tmp_path / f"results{attempt}"
        both = Bench(forks, tiny, data, output)
        logs = [tmp_path / f"{attempt}-{name}.log" for name in "ab"]
        pids = [forks.start(both.arguments(), log, *both.hook) for log in logs]
        codes = [forks.wait(pid) for pid in pids]
        assert codes == [0, 0], [log.read_text() for log in logs]
        folders = both.folders()
        assert len(folders) == 2
        assert [samples(folder) for folder in folders] == [expected, expected]
        counts = [computed(json.loads((folder / "run.json").read_text())) for folder in folders]
        assert sorted(counts) == [0, ALL]
        assert not list(output.glob("*/.partial-*"))


def test_two_models_at_once_on_one_store(bench: Bench, forks: Forks, data: Path, tmp_path: Path) -> None:
    models = [bench.model, Path(shutil.copytree(bench.model, tmp_path / "changed"))]
    change_weight(models[1], 0.5)
    expected = []
    for model, name in zip(models, "ab", strict=True):
        alone = Bench(forks, model, data, tmp_path / f"alone-{name}")
        alone.run()
        expected.append(samples(alone.last))
    both = [Bench(forks, model, data, bench.output) for model in models]
    logs = [tmp_path / f"{name}.log" for name in "ab"]
    commands = [one.arguments() for one in both]
    for arguments, name in zip(commands, "ab", strict=True):
        arguments[arguments.index("--model") + 1] = name
    pids = [forks.start(arguments, log, *bench.hook) for arguments, log in zip(commands, logs, strict=True)]
    assert [forks.wait(pid) for pid in pids] == [0, 0], [log.read_text() for log in logs]
    for name, own in zip("ab", expected, strict=True):
        (record,) = (bench.output / name).glob("*/run.json")
        assert computed(json.loads(record.read_text())) == ALL
        assert samples(record.parent) == own


def midway(bench: Bench, log: Path) -> int:
    """A slow run that has a few results in its store; its process id."""
    counter = log.with_suffix(".count")
    pid = bench.forks.start(bench.arguments(), log, "tests.support.run_bench:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 4)
    return pid


def test_a_cache_copied_in_the_middle_of_a_run_serves_another(bench: Bench, tmp_path: Path) -> None:
    pid = midway(bench, bench.log)
    copy = Bench(bench.forks, bench.model, bench.data, tmp_path / "copy")
    (copy.output / ".cache").mkdir(parents=True)
    for suffix in ("", "-wal"):
        name = f".cache/requests.sqlite{suffix}"
        shutil.copy(bench.output / name, copy.output / name)
    assert 0 < computed(copy.run()) <= ALL - 3
    assert bench.forks.wait(pid) == 0
    (folder,) = bench.folders()
    assert samples(copy.last) == samples(folder)


def test_an_output_folder_moved_in_the_middle_of_a_run_is_made_again(bench: Bench, tmp_path: Path) -> None:
    """One line says so, and the run loses nothing; removed or moved is the same to it."""
    pid = midway(bench, bench.log)
    moved = Bench(bench.forks, bench.model, bench.data, bench.output.rename(tmp_path / "moved"))
    assert bench.forks.wait(pid) == 0, bench.log.read_text()
    assert bench.log.read_text().count("was removed while in use") == 1
    (folder,) = bench.folders()
    assert computed(moved.run()) <= ALL - 3
    assert samples(moved.last) == samples(folder)


def test_an_output_folder_that_cannot_be_made_again_ends_the_run_with_one_line(
    bench: Bench, tmp_path: Path
) -> None:
    pid = midway(bench, bench.log)
    bench.output.rename(tmp_path / "moved")
    bench.output.write_bytes(b"")
    assert bench.forks.wait(pid) == 2
    (line,) = [line for line in bench.log.read_text().splitlines() if line.startswith("error: ")]
    assert "--output-dir" in line
    assert "Traceback" not in bench.log.read_text()
    bench.output.unlink()
    bench.output = tmp_path / "moved"
    assert computed(bench.run()) <= ALL - 3


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_ends_soon_keeps_what_is_done_and_says_how_to_go_on(bench: Bench, stop: int) -> None:
    counter = bench.log.with_suffix(".count")
    pid = bench.forks.start(bench.arguments(), bench.log, "tests.support.run_bench:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 4)
    os.kill(pid, stop)
    assert bench.forks.wait(pid) == 130
    assert counter.stat().st_size < ALL, "it did not wait for the rest"
    text = bench.log.read_text()
    assert "Go on with: python run_evals.py --model tiny" in text
    assert "Traceback" not in text
    assert bench.folders() == []
    assert computed(bench.run()) <= ALL - 4


def test_a_killed_holder_frees_the_one_who_waits(bench: Bench, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    first = bench.forks.start(bench.arguments(), bench.log, "tests.support.run_bench:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 1)
    log = tmp_path / "second.log"
    second = bench.forks.start(bench.arguments(), log, *bench.hook)
    wait_for(lambda: "waits for" in (log.read_text() if log.exists() else ""))
    os.kill(first, signal.SIGKILL)
    assert bench.forks.wait(first) == -signal.SIGKILL
    assert bench.forks.wait(second) == 0
    assert f"process {first} on" in log.read_text()
    (folder,) = bench.folders()
    assert computed(json.loads((folder / "run.json").read_text())) < ALL


def test_out_of_memory_shrinks_the_batches_and_changes_no_number(bench: Bench) -> None:
    from pyarrow import parquet

    tables = []
    for hook in (bench.hook, ("tests.support.run_bench:little_memory", 100)):
        bench.hook = hook
        assert computed(bench.run("--tasks", "piqa", "--fresh")) == 2 * len(PIQA)
        tables.append(parquet.read_table(bench.last / "samples" / "piqa.parquet").to_pydict())
    assert "out of memory: going on with" in bench.log.read_text()
    for mine, other in zip(tables[0].pop("logprobs"), tables[1].pop("logprobs"), strict=True):
        assert mine == pytest.approx(other, abs=1e-3)
    assert tables[0] == tables[1]


def test_a_full_disk_ends_a_run_with_one_line_and_keeps_what_was_stored(bench: Bench, disk: Path) -> None:
    bench.output = disk / "results"
    bench.run("--limit", "2")
    with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(bytes(4096)):
            pass
    assert "space" in bench.fails()
    assert len(bench.folders()) == 1
    (disk / "ballast").unlink()
    assert computed(bench.run()) <= ALL - 6


def test_a_read_only_folder_gives_one_line(bench: Bench, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    bench.output = disk / "results"
    assert "--output-dir" in bench.fails()


def test_a_run_outlives_those_who_read_its_output(bench: Bench) -> None:
    """`… | head`, a pager that is left: exit 0 must not come of a run that was never made."""
    bench.run()
    (before,) = bench.folders()
    bench.hook = ("tests.support.run_bench:nobody_listens",)
    bench.run("--fresh")
    assert samples(bench.last) == samples(before)


def test_nohup_is_heeded(bench: Bench) -> None:
    """A run that was told to ignore SIGHUP goes on."""
    counter = bench.log.with_suffix(".count")
    hook = ("tests.support.run_bench:nohup", str(counter))
    pid = bench.forks.start(bench.arguments(), bench.log, *hook)
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 4)
    os.kill(pid, signal.SIGHUP)
    assert bench.forks.wait(pid) == 0


def test_durations_are_true_though_the_clock_is_set_meanwhile(bench: Bench) -> None:
    bench.hook = ("tests.support.run_bench:jumping_clock", [-86400.0] * 50)
    timing = bench.run()["timing"]
    lengths = [end - begin for _, _, begin, end in timing["spans"]]
    assert all(0 <= length <= timing["total_seconds"] + 0.01 for length in lengths)
