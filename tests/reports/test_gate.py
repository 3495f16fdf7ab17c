"""The gate on two runs: verdicts, exit codes, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evals.core.errors import UserError
from evals.core.metric import get_metric
from reports.gate import whole as gate
from reports.gate.policy import Rule, parse
from tests.support.gates import BASE, CI_VARIABLES, changed, run_gate, run_with, verdicts
from tests.support.made_runs import edit, edit_samples


@pytest.fixture(autouse=True)
def no_ci(monkeypatch, tmp_path):
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_same_scores_pass(tmp_path, capsys):
    baseline, candidate = run_with(tmp_path), run_with(tmp_path, name="new")
    assert run_gate("--baseline", baseline, "--candidate", candidate) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("PASS         HellaSwag"))
    assert "45.00 → 45.00 (0.00)" in line and line.endswith("critical: no doc's score changed")
    assert (
        out.index("fails in at most 5 % of cases") < out.index("finds") < out.index("PASS")
    )  # promises come first
    assert out.rstrip().endswith("gate: PASS (no row dropped by more than allowed), exit code 0")


@pytest.mark.parametrize(
    "scores, verdict",
    [
        (changed(120, 20), "REGRESSION"),  # 5 points down, sure
        (changed(8, 6), "PASS"),  # 0.1 down, and 1000 docs with 7 flips can tell
        (changed(0, 120), "PASS"),  # better
        (changed(30, 0), "PASS"),  # a real drop of 1.5, which the policy allows
        (changed(600, 550), "INCONCLUSIVE"),  # 2.5 down, but so many flips that it may be chance
        (changed(400, 400), "INCONCLUSIVE"),  # 0 down, but the noise would hide a drop of 2
    ],
)
def test_a_row(tmp_path, scores, verdict):
    baseline = run_with(tmp_path)
    candidate = run_with(tmp_path, scores={"hellaswag": BASE, "piqa": scores})
    assert verdicts(baseline, candidate) == {"HellaSwag": "PASS", "PIQA": verdict}
    code = {"PASS": 0, "REGRESSION": 1, "INCONCLUSIVE": 4}[verdict]
    assert run_gate("--baseline", baseline, "--candidate", candidate) == code
    lenient = run_gate("--baseline", baseline, "--candidate", candidate, "--allow-inconclusive")
    assert lenient == (0 if verdict == "INCONCLUSIVE" else code)


def test_a_relative_drop_and_the_smaller_of_both_counts():
    percent, rating = get_metric("acc"), get_metric("judge_score")
    assert Rule(max_drop=2, max_relative_drop=10).allowed(percent, 7.5) == 0.75
    assert Rule(max_drop=2, max_relative_drop=10).allowed(percent, 50) == 2
    assert [Rule().allowed(metric, 8) for metric in (percent, rating)] == [2, 0.2]
    assert Rule().allowed(percent, 1.8) == pytest.approx(0.45)  # a quarter
    assert [Rule(margin=1).allowed(metric, 8) for metric in (percent, rating)] == [1, 0.1]
    assert Rule(margin=1, max_drop=3).allowed(percent, 50) == 1
    assert Rule(max_drop=3).allowed(percent, 50) == 3


def test_too_few_docs_never_pass(tmp_path):
    few = {"hellaswag": BASE[:60], "piqa": BASE}
    baseline, candidate = run_with(tmp_path, scores=few), run_with(tmp_path, scores=few)
    assert verdicts(baseline, candidate) == {"HellaSwag": "INCONCLUSIVE", "PIQA": "PASS"}
    policy = parse({"rows": {"HellaSwag": {"min_n": 50}}}, "test")
    assert verdicts(baseline, candidate, policy)["HellaSwag"] == "PASS"


def test_a_missing_row_is_never_a_pass(tmp_path):
    baseline = run_with(tmp_path)
    without_value = run_with(tmp_path, missing=("PIQA",))
    without_row = run_with(tmp_path, labels=("HellaSwag",))
    for candidate in (without_value, without_row):
        assert verdicts(baseline, candidate)["PIQA"] == "MISSING"
        assert run_gate("--baseline", baseline, "--candidate", candidate, "--allow-inconclusive") == 4
    other_tasks = run_with(tmp_path)
    edit(other_tasks, lambda r: r["rows"][1].update(tasks=["hellaswag"]))
    with pytest.raises(UserError, match="other tasks than the card's"):
        verdicts(baseline, other_tasks)


def test_a_row_that_the_policy_names_must_be_there(tmp_path):
    policy = parse({"rows": {"Winogrande": {}}}, "test")
    run = run_with(tmp_path)
    assert verdicts(run, run, policy)["Winogrande"] == "MISSING"
    other_suite = parse({"rows": {"BBH (3-shot)": {}}}, "test")
    assert verdicts(run, run, other_suite) == {"HellaSwag": "PASS", "PIQA": "PASS"}


@pytest.mark.parametrize("tier, code", [("critical", 1), ("supporting", 1), ("advisory", 0)])
def test_tiers_of_a_regression(tmp_path, tier, code):
    baseline, candidate = (
        run_with(tmp_path),
        run_with(tmp_path, scores={"hellaswag": BASE, "piqa": changed(120)}),
    )
    (tmp_path / "policy.toml").write_text(f'[rows.PIQA]\ntier = "{tier}"\n')
    words = ("--baseline", baseline, "--candidate", candidate, "--policy", "policy.toml")
    assert run_gate(*words) == code


@pytest.mark.parametrize("tier, code", [("critical", 4), ("supporting", 0), ("advisory", 0)])
def test_tiers_of_an_inconclusive_row(tmp_path, tier, code):
    baseline = run_with(tmp_path)
    candidate = run_with(tmp_path, scores={"hellaswag": BASE, "piqa": changed(400, 400)})
    (tmp_path / "policy.toml").write_text(f'[rows.PIQA]\ntier = "{tier}"\n')
    assert run_gate("--baseline", baseline, "--candidate", candidate, "--policy", "policy.toml") == code


# --- refusals ---

DIFFERENT = {
    "data": {"data": {"source": "smoke"}},
    "prompts": {"prompts": "other"},
    "variant": {"variant": ("gsm8k-1280",)},
    "chat": {"model": {"chat": True}},
    "dtype": {"model": {"dtype": "bfloat16"}},
    "quantization": {"model": {"quantization": "Q4_1"}},
    "limit": {"limit": 400, "scores": {"hellaswag": BASE[:400], "piqa": BASE[:400]}},
    "docs": {"scores": {"hellaswag": BASE, "piqa": BASE[:500]}},
}


@pytest.mark.parametrize("code", DIFFERENT)
def test_runs_that_differ_are_refused_unless_allowed(tmp_path, code, capsys):
    baseline, candidate = run_with(tmp_path), run_with(tmp_path, **DIFFERENT[code])
    with pytest.raises(UserError, match=f"--allow {code}"):
        run_gate("--baseline", baseline, "--candidate", candidate)
    assert (
        run_gate("--baseline", baseline, "--candidate", candidate, "--allow", code, "--summary", "s.md") == 0
    )
    assert "note: " in capsys.readouterr().out
    assert "accepted or noted" in Path("s.md").read_text()


def test_allow_takes_known_names_only(tmp_path):
    run = run_with(tmp_path)
    with pytest.raises(UserError, match="--allow everything: choose from data"):
        run_gate("--baseline", run, "--candidate", run, "--allow", "everything")


BROKEN = {
    "truncated": lambda f: (f / "run.json").write_bytes((f / "run.json").read_bytes()[:500]),
    "empty": lambda f: (f / "run.json").write_bytes(b""),
    "samples truncated": lambda f: (f / "samples/piqa.parquet").write_bytes(b"PAR1"),
    "samples gone": lambda f: (f / "samples/piqa.parquet").unlink(),
    "row edited": lambda f: edit(f, lambda r: r["rows"][1].update(value=99.0)),
    "docs edited": lambda f: edit_samples(f, "piqa", lambda c: c["acc_norm_nospace"].__setitem__(0, 0)),
    "other schema": lambda f: edit(f, lambda r: r.update(schema_version=7)),
    "other suite": lambda f: edit(f, lambda r: r.update(suite="instruct")),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_broken_folders_are_exit_2_with_one_line(tmp_path, damage, side):
    folders = {"baseline": run_with(tmp_path), "candidate": run_with(tmp_path)}
    damage(folders[side])
    words = [str(word) for name, folder in folders.items() for word in (f"--{name}", folder)]
    root = Path(gate.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "run_evals.py"), "gate", *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "PASS" not in done.stdout


def test_empty_and_absent_folders(tmp_path):
    run = run_with(tmp_path)
    (tmp_path / "hollow").mkdir()
    for bad in (tmp_path / "hollow", tmp_path / "nowhere"):
        with pytest.raises(UserError):
            run_gate("--baseline", run, "--candidate", bad)
        with pytest.raises(UserError):
            run_gate("--baseline", bad, "--candidate", run)
    nothing = run_with(tmp_path, missing=("HellaSwag", "PIQA"))
    with pytest.raises(UserError, match="nothing to gate"):
        run_gate("--baseline", nothing, "--candidate", run)
