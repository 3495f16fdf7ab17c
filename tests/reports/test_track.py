"""The trackers' hook, with a made module in a tracker's place: what it is handed, and that none is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evals.commands import report
from evals.core.errors import UserError
from tests.support.made_runs import Made, build
from tests.support.words import parse

TRACKER = """
calls = []
def init(**about): calls.append(("init", about))
def log(numbers, **more): calls.append(("log", numbers, more))
def finish(): calls.append(("finish",))
"""


def options(*words: str) -> report.Options:
    return parse(report.Options, words)


def test_rows_reach_the_tracker_with_their_intervals_and_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trackio.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    scores = {"piqa": [1] * 30 + [0] * 10}
    made = Made(
        name="run-step-500", labels=("PIQA",), scores=scores, notes=[("limit", "only the first 40")], limit=40
    )
    folder = build(tmp_path / "results", made)
    assert report.main(options(str(folder), "--track", "trackio")) == 0
    init, log, finish = sys.modules["trackio"].calls
    assert init[1]["project"] == "smol-evals" and init[1]["config"]["partial"] == ["only the first 40"]
    assert init[1]["config"]["limit"] == 40 and init[1]["config"]["model_dtype"] == "float32"
    assert log[1]["PIQA"] == 75.0 and log[1]["PIQA/n"] == 40 and log[1]["PIQA/low"] < 75 < log[1]["PIQA/high"]
    assert log[2] == {"step": 500} and finish == ("finish",)
    assert "PIQA" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "trackio")


def test_a_tracker_that_is_not_there_is_one_line_before_anything_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = build(tmp_path, Made(labels=("PIQA",)))
    with pytest.raises(UserError, match="pip install wandb"):
        report.main(options(str(folder), "--track", "wandb"))
    with pytest.raises(UserError, match="not about --curve"):
        report.main(options(str(folder), "--track", "wandb", "--curve"))
    assert capsys.readouterr().out == ""
