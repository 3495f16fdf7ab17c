"""Weights, tokenizer and config overwritten, cut short or removed while a run is under way: it does not notice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.forks import wait_for
from tests.support.run_bench import ALL, Bench, change_weight, computed, samples


def overwrite(model: Path) -> None:
    """As a training writes its latest weights: into the same file."""
    other = Path(shutil.copytree(model, model.parent / "other"))
    change_weight(other, 40.0)
    with (model / "model.safetensors").open("r+b") as file:
        file.write((other / "model.safetensors").read_bytes())
        file.truncate()


def cut(model: Path) -> None:
    for file in model.iterdir():
        os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "change", [overwrite, *(pytest.param(one, marks=pytest.mark.slow) for one in (cut, shutil.rmtree))]
)
def test_what_becomes_of_the_files_changes_no_sample_and_poisons_no_store(
    bench: Bench, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    bench.run()
    expected, kept = samples(bench.last), bench.model
    bench.model = Path(shutil.copytree(kept, tmp_path / "latest"))
    bench.output = tmp_path / "disturbed"
    counter = tmp_path / "count"
    pid = bench.forks.start(bench.arguments(), bench.log, "tests.support.run_bench:slow", str(counter))
    wait_for(lambda: counter.exists() and counter.stat().st_size >= 2)
    change(bench.model)
    assert bench.forks.wait(pid) == 0, bench.log.read_text()
    (folder,) = bench.folders()
    assert counter.stat().st_size == ALL
    assert samples(folder) == expected

    bench.model = kept  # the same command with the old weights: what is stored is theirs
    assert computed(bench.run()) == 0
    assert samples(bench.last) == expected
