"""A site that is pushed to a Space: the real client against the stand-in hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_standin import Fault, StandInHub, standin_hub
from tests.support.site_runs import MadeRun, make_run

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_secretsecretsecretsecretsecretsecret"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with standin_hub() as server:
        yield server


def push(hub: StandInHub, results: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(results / "home")}
    env.pop("HF_HUB_OFFLINE", None)
    line = [sys.executable, str(ROOT / "run_evals.py"), "leaderboard", str(results), "--push", "org/board"]
    return subprocess.run([*line, *words], capture_output=True, text=True, check=False, env=env | more)


@pytest.mark.slow
def test_a_site_is_pushed_whole_and_replaced(hub: StandInHub, tmp_path: Path) -> None:
    make_run(tmp_path, MadeRun("first", rows=("PIQA",)))
    done = push(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    held = hub.repos["spaces/org/board"]
    assert held.card == {"visibility": "private", "sdk": "static"}
    assert done.stdout.splitlines()[-1] == f"{hub.url}/spaces/org/board"
    site = tmp_path / "leaderboard" / "site"
    files = {
        path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()
    }
    assert held.commits[held.branches["main"]] == files
    assert b"sdk: static" in files["README.md"] and b"README.md" not in files["index.html"]
    make_run(tmp_path, MadeRun("second", rows=("PIQA",), time="20260105T030405Z"))
    assert push(hub, tmp_path, "--no-samples").returncode == 0
    names = held.commits[held.branches["main"]]
    assert "index.html" in names and not any(
        name.startswith("data/") for name in names
    )  # what is gone is deleted


@pytest.mark.slow
def test_what_goes_wrong_is_one_line(hub: StandInHub, tmp_path: Path) -> None:
    make_run(tmp_path, MadeRun("first", rows=("PIQA",)))
    hub.faults.append(Fault("POST /api/repos/create", 401))
    for more, says in (({}, "asks for a login (401)"), ({"HF_HUB_OFFLINE": "1"}, "nothing can be pushed")):
        done = push(hub, tmp_path, **more)
        assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1
        assert "local copy" not in done.stderr and TOKEN not in done.stderr + done.stdout
    assert (tmp_path / "leaderboard" / "site" / "index.html").is_file()  # the site stands all the same
