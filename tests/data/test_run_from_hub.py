"""``--data hub`` and ``--model ORG/NAME`` through the program itself, against a stand-in hub, from a cold cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmarks import add_benchmarks
from tests.support.hub_standin import Fault, StandInHub, standin_hub
from tests.support.tiny_checkpoint import files_of, write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
Evaluate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandInHub]:
    with standin_hub() as server:
        add_benchmarks(server)
        server.add("models/org/tiny", files_of(write_tiny_model(tmp_path / "tiny")))
        yield server


@pytest.fixture
def evaluate(hub: StandInHub, tmp_path: Path) -> Evaluate:
    def run(*options: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "run_evals.py", "--output-dir", str(tmp_path / "results"), *options]
        done = subprocess.run(
            command, cwd=ROOT, env=clean | settings | env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def last_run(tmp_path: Path) -> dict[str, Any]:
    newest = max((tmp_path / "results").glob("*/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    return dict(json.loads(newest.read_text()))


MODEL = ("--model", "org/tiny", "--suite", "base", "--limit", "4")


@pytest.mark.slow
def test_cold_cache_then_offline(hub: StandInHub, evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate(*MODEL, "--tasks", "piqa,arc_easy,winogrande")
    run = last_run(tmp_path)
    assert run["model"]["source"] == "hub:org/tiny"
    assert run["model"]["revision"] == hub.repos["models/org/tiny"].branches["main"]
    assert run["data"]["source"] == "hub"
    tasks = run["data"]["tasks"]
    assert tasks["arc_easy"]["revision"] == "210d026faf9955653af8916fad021475a3f00453"
    assert tasks["piqa"]["revision"] == hub.repos["datasets/baber/piqa"].branches["main"]
    assert list(tasks["piqa"]["sha256"]) == ["baber/piqa/piqa_validation.parquet"]
    assert tasks["piqa"]["complete"] and not tasks["winogrande"]["complete"]

    asked = len(hub.log)
    evaluate(*MODEL, "--tasks", "piqa,arc_easy,winogrande", "--offline")
    assert len(hub.log) == asked
    again = last_run(tmp_path)
    assert again["data"] == run["data"] and again["tasks"] == run["tasks"]
    assert again["model"] == run["model"]


@pytest.mark.slow
def test_row_without_data_is_shown_and_the_others_go_on(
    hub: StandInHub, evaluate: Evaluate, tmp_path: Path
) -> None:
    hub.faults.append(Fault("winogrande", 403, {"X-Error-Code": "GatedRepo"}))
    done = evaluate(*MODEL, "--tasks", "piqa,winogrande", code=3)
    assert "refuses access (403)" in done.stderr
    rows = {row["label"]: row for row in last_run(tmp_path)["rows"]}
    assert rows["Winogrande"]["value"] is None and "(403)" in rows["Winogrande"]["note"]
    assert rows["PIQA"]["value"] is not None


@pytest.mark.parametrize(
    ("match", "status", "says"),
    [
        ("/api/models", 404, "no such repo"),
        pytest.param("/api/models", 401, "asks for a login", marks=pytest.mark.slow),
        pytest.param("/api/", 503, "out of order", marks=pytest.mark.slow),
    ],
)
def test_no_model_or_no_hub_is_one_line(
    hub: StandInHub, evaluate: Evaluate, match: str, status: int, says: str
) -> None:
    hub.faults.append(Fault(match, status))
    done = evaluate(*MODEL, "--tasks", "piqa", code=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and says in errors[0] and "Traceback" not in done.stderr
    assert not done.stdout
