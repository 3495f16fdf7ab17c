"""This project's tasks and adapter inside lighteval's own Pipeline, as the README shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def readme_example() -> str:
    text = (ROOT / "evals" / "adapters" / "README.md").read_text("utf-8")
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


@pytest.mark.model
@pytest.mark.usefixtures("loaded_once")
def test_the_readmes_lines_run_and_score_as_the_runner_does(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(readme_example(), "README.md", "exec"), names)
    results = names["pipeline"].get_results()["results"]
    assert results["piqa:0"].keys() >= {"acc", "acc_norm_nospace"}

    from evals.data.sources import build_docs, load, parse_source
    from tasks import get_task
    from tasks.common.metrics import score

    task = get_task("piqa")
    docs = build_docs(task, load(task, parse_source("smoke")), limit=4)
    model = names["PrefixModel"](names["loaded"], chat=False)
    answers = model.loglikelihood(docs)
    scores = [score(task, doc, one)["acc_norm_nospace"] for doc, one in zip(docs, answers, strict=True)]
    assert results["piqa:0"]["acc_norm_nospace"] == pytest.approx(sum(scores) / 4)
    assert 0 <= results["bbh_navigate:3"]["exact_match"] <= 1


def test_the_readme_names_only_commands_that_exist():
    from evals.cli import COMMANDS

    text = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"run_evals\.py ([a-z]+)\b", text)) - {"is"}
    assert named and named <= set(COMMANDS)
