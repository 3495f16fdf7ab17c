"""The action and the workflows: well formed, and their `run:` steps do in a shell what they say.

What GitHub itself does (checkout, setup-python, expressions) is stood in for by the few lines of `run_steps`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.made_runs import Made, build

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
BASE = ([1] * 45 + [0] * 55) * 10


def test_the_action_is_well_formed():
    assert set(ACTION) == {"name", "description", "author", "inputs", "outputs", "runs"}
    assert len(ACTION["description"]) <= 125
    assert ACTION["runs"]["using"] == "composite"
    for entry in ACTION["inputs"].values():
        assert set(entry) <= {"description", "required", "default"}
        assert entry.get("required", False) or "default" in entry
    ids = {step["id"] for step in ACTION["runs"]["steps"] if "id" in step}
    for step in ACTION["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"], "inputs must reach a script through its environment"
        for name in EXPRESSION.findall(str(step)):
            known = re.fullmatch(r"inputs\.([\w-]+)", name)
            if known:
                assert known[1] in ACTION["inputs"]
            elif name.startswith("steps."):
                assert name.split(".")[1] in ids
            else:
                assert name == "github.action_path"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_well_formed(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true
    assert set(workflow) <= {"name", True, "permissions", "concurrency", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] in ("ubuntu-latest", "${{ inputs.runner }}")
        assert job["timeout-minutes"] > 0
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "${{" not in step.get("run", "")
            assert step.get("uses") != "./", "a caller's checkout has no action"
            if step.get("uses") == "./.smol-evals":
                assert set(step["with"]) <= set(ACTION["inputs"])
            elif "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_the_test_workflow_runs_what_is_there():
    steps = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["tests"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    assert scripts == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def run_steps(folder: Path, action: Path = ROOT, **inputs: str) -> tuple[int, dict[str, str], str]:
    """Runs the action's steps as GitHub would: (exit code, the gate step's outputs, everything printed).

    `folder`: the workspace; `action`: where the action was checked out.
    """
    values: dict[str, str] = {
        f"inputs.{name}": str(entry.get("default", "")) for name, entry in ACTION["inputs"].items()
    }
    values |= {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}
    values["github.action_path"] = str(action)
    printed, outputs = "", {}
    for number, step in enumerate(ACTION["runs"]["steps"]):
        if "run" not in step or not _wanted(step, values):
            continue
        output = folder / f"output-{number}"
        output.touch()
        env = {name: _filled(text, values) for name, text in step.get("env", {}).items()}
        done = _bash(step["run"], folder, env | {"GITHUB_OUTPUT": str(output)})
        printed += done.stdout + done.stderr
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        if "id" in step:
            values |= {f"steps.{step['id']}.outputs.{name}": value for name, value in outputs.items()}
        if done.returncode:
            return done.returncode, outputs, printed
    return 0, outputs, printed


def _filled(text: str, values: dict[str, str]) -> str:
    return EXPRESSION.sub(lambda found: values[found[1]], text)


def _wanted(step: dict[str, Any], values: dict[str, str]) -> bool:
    if "if" not in step:
        return True
    condition = re.fullmatch(r"([\w.-]+) != ''", step["if"])
    assert condition is not None, step["if"]
    return values[condition[1]] != ""


def _bash(script: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ci = {
        "PATH": path,
        "RUNNER_TEMP": str(folder),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "PIP_NO_INDEX": "1",
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **ci, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def made(folder: Path, name: str, worse: int = 0, docs: int = 1000) -> Path:
    scores = ([0] * worse + BASE[worse:])[:docs]
    return build(folder / "runs", Made(name=name, labels=("PIQA",), scores={"piqa": scores}))


def test_the_action_passes_a_good_candidate(tmp_path):
    code, outputs, printed = run_steps(
        tmp_path, baseline=str(made(tmp_path, "old")), candidate=str(made(tmp_path, "new"))
    )
    assert code == 0, printed
    assert outputs["verdict"] == "PASS" and Path(outputs["candidate"]).parent.name == "new"
    assert "PASS" in Path(outputs["summary"]).read_text() and Path(outputs["junit"]).is_file()
    assert json.loads(Path(outputs["json"]).read_text())["verdict"] == "PASS"
    assert "Evaluation gate: PASS" in (tmp_path / "summary.md").read_text()


def test_the_action_stops_a_worse_candidate_and_takes_a_policy(tmp_path):
    baseline, candidate = made(tmp_path, "old"), made(tmp_path, "new", worse=45)
    code, outputs, printed = run_steps(tmp_path, baseline=str(baseline), candidate=str(candidate))
    assert (code, outputs["verdict"]) == (1, "REGRESSION")
    assert "::error title=REGRESSION%3A PIQA::" in printed
    (tmp_path / "loose.toml").write_text("[defaults]\nmax_drop = 9\n")
    options = {
        "policy": "loose.toml",
        "allow": "dtype,limit",
        "allow_inconclusive": "true",
        "show_flips": "1",
    }
    assert run_steps(tmp_path, baseline=str(baseline), candidate=str(candidate), **options)[0] == 0


def test_the_actions_inputs_are_never_run(tmp_path):
    hostile = '"; touch pwned; echo "$(touch pwned)`touch pwned`'
    code, _, printed = run_steps(tmp_path, baseline=hostile, candidate=hostile)
    assert code == 2
    assert "error: " in printed
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("given", [{}, {"candidate": "some/run", "model": "SmolLM2-135M"}])
def test_the_action_needs_a_candidate_or_a_model(tmp_path, given, monkeypatch):
    """Both empty must not measure the embedded model and pass it. (No install step runs: the packages are there.)"""
    code, outputs, printed = run_steps(tmp_path, baseline=str(made(tmp_path, "old")), **given)
    assert code == 2 and outputs["verdict"] == "ERROR"
    assert "::error title=Evaluation gate::give either --candidate RUN, or --model NAME" in printed
    assert 'errors="1"' in Path(outputs["junit"]).read_text()
    assert "Evaluation gate: ERROR" in (tmp_path / "summary.md").read_text()


def test_inconclusive_is_a_failure_or_a_warning(tmp_path):
    candidate = made(tmp_path, "new", worse=4, docs=150)
    policy = tmp_path / "policy.toml"
    policy.write_text("[defaults]\ntier = 'critical'\n")
    words = {
        "baseline": str(made(tmp_path, "few", docs=150)),
        "candidate": str(candidate),
        "policy": str(policy),
    }
    code, outputs, printed = run_steps(tmp_path, **words)
    assert (code, outputs["verdict"]) == (
        4,
        "INCONCLUSIVE",
    ) and "::error title=INCONCLUSIVE%3A PIQA" in printed
    assert 'failures="1"' in Path(outputs["junit"]).read_text()
    code, outputs, printed = run_steps(tmp_path, **words, allow_inconclusive="true")
    assert (code, outputs["verdict"]) == (
        0,
        "INCONCLUSIVE",
    ) and "::warning title=INCONCLUSIVE%3A PIQA" in printed
    assert 'failures="0" skipped="1"' in Path(outputs["junit"]).read_text()


@pytest.mark.slow
def test_the_workflow_in_a_strangers_repository(tmp_path):
    """The steps of the reusable workflow in a shell, in a repository that holds a baseline, a policy and a run."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    subprocess.run(["git", "init", "-q", str(stranger)], check=True)
    good, bad = made(stranger, "old"), made(stranger, "new", worse=45)
    bless = ["bless", str(good), "--as", "main", "--baselines", str(stranger / "results" / "baselines")]
    subprocess.run([sys.executable, str(ROOT / "run_evals.py"), *bless], check=True, capture_output=True)
    (stranger / "policy.toml").write_text("[defaults]\nmargin = 1\n")
    (job,) = yaml.safe_load((ROOT / ".github/workflows/gate.yml").read_text())["jobs"].values()
    own, other, judge, _ = job["steps"]
    assert own["uses"] == other["uses"] == "actions/checkout@v5" and "with" not in own
    assert other["with"]["repository"] == "${{ job.workflow_repository }}"
    checkout = stranger / other["with"]["path"]
    checkout.symlink_to(ROOT)  # what the second checkout makes
    assert judge["uses"] == f"./{checkout.name}"
    for run, code in ((good, 0), (bad, 1)):
        inputs = {"baseline": "main", "candidate": str(run.relative_to(stranger)), "policy": "policy.toml"}
        values = {f"inputs.{name}": inputs.get(name, "") for name in ACTION["inputs"]}
        given = {name.replace("-", "_"): _filled(text, values) for name, text in judge["with"].items()}
        done, outputs, printed = run_steps(stranger, checkout, **given)
        assert done == code, printed
        assert outputs["candidate"] == inputs["candidate"]


@pytest.mark.slow
@pytest.mark.model
def test_the_action_measures_and_judges(tmp_path, embedded_path):
    tasks = ["--tasks", "piqa", "--limit", "4", "--data", "smoke", "--suite", "instruct", "--device", "cpu"]
    words = ["--model", str(embedded_path), *tasks, "--output-dir", str(tmp_path / "first")]
    subprocess.run([sys.executable, str(ROOT / "run_evals.py"), *words], check=True, capture_output=True)
    run = next((tmp_path / "first").rglob("run.json")).parent
    (tmp_path / "loose.toml").write_text("[defaults]\nmin_n = 1\nmargin = 90\nmax_relative_drop = 99\n")
    measured = {"model": str(embedded_path), "data": "smoke", "policy": "loose.toml"}
    code, outputs, printed = run_steps(tmp_path, baseline=str(run), **measured)
    assert (code, outputs["verdict"]) == (0, "PASS"), printed
    assert Path(outputs["candidate"]).is_relative_to(tmp_path / "smol-evals")
