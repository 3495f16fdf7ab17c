"""``snapshot DIR`` from a stand-in hub: complete, continued after a stop, verified on reading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evals.core.errors import UserError
from evals.data.sources import Source, load
from tasks import TASKS, get_task
from tests.support.benchmarks import SMOKE, add_benchmarks
from tests.support.hub_standin import Fault, StandInHub, standin_hub

ROOT = Path(__file__).resolve().parents[2]
Snapshot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with standin_hub() as server:
        add_benchmarks(server)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"


@pytest.fixture
def snapshot(hub: StandInHub, folder: Path, tmp_path: Path) -> Snapshot:
    """Runs the command; the hub's cache is another one each time, so that only the folder can be what continues."""
    homes = iter(range(99))

    def run(*options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / f"home{next(homes)}"),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "run_evals.py", "snapshot", str(folder), *options]
        done = subprocess.run(command, cwd=ROOT, env=clean | env, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    return run


def entries(folder: Path) -> dict[str, dict[str, object]]:
    return {entry["file"]: entry for entry in json.loads((folder / "SOURCES.json").read_text())}


@pytest.mark.slow
def test_whole_card_read_back_as_data(hub: StandInHub, snapshot: Snapshot, folder: Path) -> None:
    done = snapshot("--tasks", ",".join(TASKS), code=3)
    # the hub that stands in has no real rows, which named shots are
    whole = [task for task in TASKS.values() if task.fixed_shots is None or not task.fixed_shots.names]
    assert f"{len(whole)} of {len(TASKS)} tasks" in done.stdout
    assert done.stderr.count("5 of the 5 fixed shots are not in it") == len(TASKS) - len(whole)
    known = entries(folder)
    assert set(known) == {f"{task.stem(split)}.parquet" for task in TASKS.values() for split in task.splits}
    for task in whole:
        data = load(task, Source("folder", folder))
        if task.stem(task.split) == "piqa/validation":
            assert data.record["complete"] and len(data.rows) == 1838
            continue
        smoke = load(task, Source("smoke", SMOKE))
        assert len(data.rows) == len(smoke.rows)
        assert (data.shot_rows is None) == (smoke.shot_rows is None)
        assert not data.record["complete"]
        assert f"instead of the official {task.docs}" in data.record["note"]

    piqa, arc, winogrande = (
        known[f"{name}.parquet"] for name in ("piqa/validation", "arc_easy/test", "winogrande/validation")
    )
    assert piqa["source_repo_or_package"] == "hub:baber/piqa" and piqa["complete"]
    assert arc["commit_or_version"] == "210d026faf9955653af8916fad021475a3f00453" and arc["license"] == "mit"
    conversion = hub.repos["datasets/allenai/winogrande"].branches["refs/convert/parquet"]
    assert winogrande["commit_or_version"] == conversion
    assert winogrande["official_rows"] == 1267 and not winogrande["complete"]
    assert not [line for line in hub.requests() if line.endswith(".py")]

    downloads = len(hub.requests("GET /cdn/"))
    again = snapshot("--tasks", ",".join(TASKS), code=3)
    assert again.stderr.count("kept") == sum(len(task.splits) for task in TASKS.values())
    assert len(hub.requests("GET /cdn/")) == downloads


@pytest.mark.slow
def test_continues_and_repairs(hub: StandInHub, snapshot: Snapshot, folder: Path) -> None:
    hub.faults.append(Fault("winogrande", 404))
    stopped = snapshot("--tasks", "piqa,winogrande,arc_easy", code=3)
    assert "winogrande: data set allenai/winogrande: no such repo" in stopped.stderr
    assert set(entries(folder)) == {"piqa/validation.parquet", "arc_easy/test.parquet"}
    hub.faults.clear()

    (folder / "arc_easy" / "test.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match="not what its SOURCES"):
        load(get_task("arc_easy"), Source("folder", folder))
    done = snapshot("--tasks", "piqa,winogrande,arc_easy")
    states = {line.split()[1]: line.split()[0] for line in done.stderr.splitlines() if ".parquet" in line}
    assert states == {
        "piqa/validation.parquet": "kept",
        "winogrande/validation.parquet": "new",
        "arc_easy/test.parquet": "replaced",
    }
    assert load(get_task("arc_easy"), Source("folder", folder)).rows


def test_files_of_others_are_left_alone(snapshot: Snapshot, folder: Path) -> None:
    mine = folder / "piqa" / "validation.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    done = snapshot("--tasks", "piqa", code=2)
    assert "SOURCES.json does not know it" in done.stderr and len(done.stderr.splitlines()) == 1
    assert mine.read_bytes() == b"mine"


def test_nothing_to_be_had_is_one_line(hub: StandInHub, snapshot: Snapshot) -> None:
    hub.faults.append(Fault("/api/datasets", 401))
    done = snapshot("--tasks", "piqa", code=2)
    assert "asks for a login (401)" in done.stderr and len(done.stderr.splitlines()) == 1
