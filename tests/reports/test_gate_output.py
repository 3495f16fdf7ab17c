"""What a gate writes for people and for CI systems."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evals.core.errors import UserError
from reports.gate import ci
from reports.gate import output as gate_output
from reports.gate.policy import Policy, Rule
from reports.gate.whole import gate
from reports.runs import load_run
from tests.support.gates import BASE, CI_VARIABLES, changed, run_gate, run_with
from tests.support.made_runs import edit


@pytest.fixture(autouse=True)
def no_ci(monkeypatch, tmp_path):
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mixed(tmp_path):
    """A regression, an inconclusive row, a missing one and a pass."""
    labels = ("HellaSwag", "PIQA", "Winogrande", "OpenBookQA")
    tasks = ("hellaswag", "piqa", "winogrande", "openbook_qa")
    baseline = run_with(tmp_path, labels=labels, scores=dict.fromkeys(tasks, BASE))
    scores = {**dict.fromkeys(tasks, BASE), "piqa": changed(400, 400), "hellaswag": changed(200)}
    candidate = run_with(tmp_path, labels=labels, scores=scores, missing=("Winogrande",))
    return gate(load_run(baseline), load_run(candidate), Policy(Rule(tier="critical")), finer=False)


@pytest.mark.parametrize("lenient, failures", [(False, 3), (True, 2)])
def test_junit(mixed, lenient, failures):
    suite = ElementTree.fromstring(ci.junit_xml(mixed, lenient))
    counts = {k: int(suite.get(k)) for k in ("tests", "failures", "skipped")}
    assert counts == {"tests": 5, "failures": failures, "skipped": 4 - failures}
    outcome = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert outcome == {
        "HellaSwag": ["failure"],
        "PIQA": ["skipped" if lenient else "failure"],
        "Winogrande": ["failure"],
        "OpenBookQA": [],
        "Mean of all rows": ["skipped"],
    }
    assert "moved most" in suite.findtext("system-out")


def test_summary_has_the_verdict_first_and_details_folded(mixed):
    text = gate_output.summary_markdown(mixed, 1)
    assert text.startswith("# ❌ Evaluation gate: REGRESSION\n")
    assert text.index("**REGRESSION** HellaSwag") < text.index("<details>") < text.index("| HellaSwag")
    assert "**PASS**" not in text


def test_on_github(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    (tmp_path / "summary").write_text("earlier step\n")
    lines = ci.leave(mixed, 1, None, None)
    assert [line.split(" title=")[0] for line in lines] == ["::error"] * 3
    assert ["::warning" in line for line in ci.workflow_commands(mixed, lenient=True)] == [False, True, False]
    assert lines[0].startswith("::error title=REGRESSION%3A HellaSwag::dropped by 10.00")
    assert (tmp_path / "summary").read_text().startswith("earlier step\n# ❌")
    assert (tmp_path / "output").read_text() == f"verdict=REGRESSION\ncandidate={mixed.candidate.folder}\n"
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "no" / "output"))
    with pytest.raises(UserError, match="GITHUB_OUTPUT"):
        ci.leave(mixed, 1, None, None)


def test_annotations_escape_what_github_would_read():
    assert ci._data("50%\r\n::set") == "50%25%0D%0A::set"
    assert ci._property("a:b,c") == "a%3Ab%2Cc"


def test_hostile_names_in_all_outputs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    run = run_with(tmp_path)
    name = "x\n::error::fake\n<script>\x00|\ud800</failure>".encode("utf-8", "replace").decode()
    edit(run, lambda r: r["model"].update(name=name))
    edit(run, lambda r: r["rows"][0].update(label=name))
    empty = run_with(tmp_path, missing=("PIQA",))
    edit(empty, lambda r: r["rows"][1].update(notes=[{"code": "missing", "text": name}]))
    run_gate("--baseline", run, "--candidate", empty)
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert [line[:27] for line in commands] == ["::error title=MISSING%3A x ", "::error title=MISSING%3A PI"]
    assert run_gate("--baseline", run, "--candidate", run, "--junit", "j.xml", "--summary", "s.md") == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    ElementTree.parse("j.xml")
    assert "<script" not in Path("s.md").read_text()


def test_gate_starts_fast():
    code = (
        "import sys; from evals import cli;"
        "cli.parse(['gate', '--baseline', 'a', '--candidate', 'b']); print(*sys.modules)"
    )
    root = Path(gate_output.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert not {"numpy", "pyarrow", "torch", "scipy", "lighteval"} & set(done.stdout.split())


# --- one screen ---


def test_a_regression_explains_itself(mixed):
    text = gate_output.plain(mixed, 1)
    assert len(text.splitlines()) <= 12
    assert "HellaSwag: 200 of 2000 docs changed" in text
    assert "moved most (score lost): hellaswag 0 (−1), hellaswag 7 (−1)" in text
    assert (
        f"see more: run_evals.py compare {mixed.baseline.folder} {mixed.candidate.folder} --show-flips 10"
        in text
    )
    assert "set max_drop for this row, make it supporting, or pass --allow-inconclusive" in text
    assert "Prompt 7" not in text + gate_output.summary_markdown(mixed, 1)
    assert "Prompt 7" in gate_output.summary_markdown(mixed, 1, flips=3)


def test_a_real_drop_that_is_allowed_is_said(tmp_path, capsys):
    baseline, candidate = (
        run_with(tmp_path),
        run_with(tmp_path, scores={"hellaswag": BASE, "piqa": changed(30)}),
    )
    assert run_gate("--baseline", baseline, "--candidate", candidate, "--show-flips", 1) == 0
    out = capsys.readouterr().out
    assert "critical: dropped by 1.50 (p < 0.001), allowed 2.00" in out
    assert "## Docs whose score changed" in out and "1 → 0" in out


def test_a_row_that_collapses_never_passes(tmp_path):
    few = [1] * 4 + [0] * 396
    for left, verdict in ((0, "INCONCLUSIVE"), (4, "PASS")):
        scores = {"hellaswag": BASE, "piqa": [1] * left + [0] * (400 - left)}
        baseline = load_run(run_with(tmp_path, scores={"hellaswag": BASE, "piqa": few}))
        rows = gate(baseline, load_run(run_with(tmp_path, scores=scores)), Policy(), finer=False).rows
        assert rows[1].verdict == verdict and rows[1].tier == "supporting"
    many = run_with(tmp_path, scores={"hellaswag": BASE, "piqa": few * 10})
    gone = run_with(tmp_path, scores={"hellaswag": BASE, "piqa": [0] * 4000})
    result = gate(load_run(many), load_run(gone), Policy(), finer=False)
    assert (result.rows[1].verdict, result.verdict) == ("REGRESSION", "REGRESSION")


def test_a_gate_of_which_no_row_can_see_is_inconclusive(tmp_path, capsys):
    few = {"hellaswag": BASE[:400], "piqa": BASE[:400]}
    worse = {"hellaswag": changed(8)[:400], "piqa": BASE[:400]}
    baseline, candidate = run_with(tmp_path, scores=few), run_with(tmp_path, scores={**few, **worse})
    (tmp_path / "p.toml").write_text("[rows.PIQA]\ntier = 'advisory'\n")
    words = ("--baseline", baseline, "--candidate", candidate, "--policy", "p.toml")
    assert run_gate(*words) == 4
    assert "400 docs show drops from" in capsys.readouterr().out


def test_json(tmp_path, capsys):
    baseline, candidate = (
        run_with(tmp_path),
        run_with(tmp_path, scores={"hellaswag": BASE, "piqa": changed(200)}),
    )
    assert run_gate("--baseline", baseline, "--candidate", candidate, "--format", "json") == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["verdict"], data["exit_code"], data["early"]) == ("REGRESSION", 1, False)
    piqa = data["rows"][1]
    assert (piqa["verdict"], piqa["before"], piqa["after"], piqa["docs_changed"]) == (
        "REGRESSION",
        45,
        35,
        200,
    )
    assert piqa["moved_most"][0] == {"task": "piqa", "doc_id": 0, "loss": 1.0}


def test_an_error_leaves_what_ci_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(UserError, match="no run folder"):
        run_gate(
            "--baseline",
            run_with(tmp_path),
            "--candidate",
            "no<where",
            "--junit",
            "j.xml",
            "--summary",
            "s.md",
        )
    suite = ElementTree.parse("j.xml").getroot()
    assert suite.get("errors") == "1" and "no<where" in suite.find("testcase/error").get("message")
    assert "Evaluation gate: ERROR" in Path("s.md").read_text() and "no&lt;where" in Path("s.md").read_text()
    assert (tmp_path / "output").read_text() == "verdict=ERROR\n"
    assert (tmp_path / "summary").read_text().startswith("# ❌ Evaluation gate: ERROR")
    assert capsys.readouterr().err.startswith("::error title=Evaluation gate::no run folder")


@pytest.mark.parametrize("words", [(), ("--candidate", "a", "--model", "b")])
def test_a_candidate_or_a_model(tmp_path, words):
    with pytest.raises(UserError, match="give either --candidate RUN, or --model NAME"):
        run_gate("--baseline", run_with(tmp_path), *words)
    with pytest.raises(UserError, match="--data is about a candidate that is measured here"):
        run_gate("--baseline", run_with(tmp_path), "--candidate", "a", "--data", "smoke")
