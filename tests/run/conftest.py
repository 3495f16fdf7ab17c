"""Fixtures of whole runs: the server of forks, a tiny model, its data, and all of them together."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forks import Forks
from tests.support.run_bench import Bench, write_data
from tests.support.tiny_checkpoint import write_tiny_model


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def bench(forks: Forks, tiny: Path, data: Path, tmp_path: Path) -> Bench:
    return Bench(forks, tiny, data, tmp_path / "results")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting needs rights that this account lacks: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)
