"""This project's tasks and adapter inside lighteval's own Pipeline, as the README shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_checkpoint import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]


def readme_example() -> str:
    text = (ROOT / "evals" / "adapters" / "README.md").read_text("utf-8")
    part = text.split("## Inside lighteval")[1].split("##")[0]
    return "\n".join(line[4:] for line in part.splitlines() if line.startswith("    "))


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("loaded_once")
def test_the_readmes_lines_run_and_score_as_the_runner_does(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    assert len(readme_example().splitlines()) <= 6
    exec(compile(readme_example(), "README.md", "exec"), names)
    results = names["pipeline"].get_results()["results"]
    assert results["piqa:0"].keys() >= {"acc", "acc_norm_nospace"}

    from evals.data.sources import build_docs, load, parse_source
    from tasks import get_task
    from tasks.common.metrics import score

    task = get_task("piqa")
    docs = build_docs(task, load(task, parse_source("smoke")), limit=4)
    answers = names["pipeline"].model.loglikelihood(docs)
    scores = [score(task, doc, one)["acc_norm_nospace"] for doc, one in zip(docs, answers, strict=True)]
    assert results["piqa:0"]["acc_norm_nospace"] == pytest.approx(sum(scores) / 4)
    assert 0 <= results["bbh_navigate:3"]["exact_match"] <= 1


@pytest.mark.slow
def test_lightevals_own_command_starts(tmp_path):
    """In a process of its own: it leaves lighteval's settings behind."""
    model = write_tiny_model(tmp_path / "tiny")
    words = [
        "smoke",
        "accelerate",
        f"model_name={model}",
        "piqa",
        "--max-samples",
        "2",
        "--output-dir",
        "out",
    ]
    command = [sys.executable, "-m", "evals.adapters.lighteval", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "acc_norm_nospace" in done.stdout + done.stderr


def test_the_readme_names_only_commands_that_exist():
    from evals.cli import COMMANDS

    text = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"run_evals\.py ([a-z]+)\b", text)) - {"is"}
    assert named and named <= set(COMMANDS)
