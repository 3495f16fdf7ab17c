"""The gate: verdicts, exit codes, refusals, what it writes; its power and its false alarms by simulation."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from evals.commands import bless as bless_command
from evals.commands import gate as gate_command
from evals.core.errors import UserError
from evals.core.metric import get_metric
from reports import significance
from reports.gate import bless
from reports.gate import output as gate_output
from reports.gate import verdict as gate
from reports.gate.policy import Policy, Rule, load_policy, parse
from reports.runs import load_run
from tests.support.made_runs import Made, build, edit, edit_samples

BASE = ([1] * 45 + [0] * 55) * 10


@pytest.fixture(autouse=True)
def no_ci(monkeypatch, tmp_path):
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run_with(tmp_path, **options):
    options = {"labels": ("HellaSwag", "PIQA"), "scores": {"hellaswag": BASE, "piqa": BASE}, **options}
    return build(tmp_path / str(len(list(tmp_path.iterdir()))), Made(**options))


def changed(worse: int, better: int = 0) -> list[int]:
    scores = np.array(BASE)
    ones, zeros = np.flatnonzero(scores == 1)[:worse], np.flatnonzero(scores == 0)[:better]
    scores[ones], scores[zeros] = 0, 1
    return scores.tolist()


def run_gate(*words) -> int:
    parser = argparse.ArgumentParser()
    gate_command.add_arguments(parser)
    return gate_command.main(parser.parse_args([str(word) for word in words]))


def verdicts(baseline: Path, candidate: Path, policy: Policy | None = None) -> dict[str, str]:
    result = gate.gate(load_run(baseline), load_run(candidate), policy or Policy())
    return {row.label: row.verdict for row in result.rows}


# --- verdicts ---


def test_the_same_scores_pass(tmp_path, capsys):
    baseline, candidate = run_with(tmp_path), run_with(tmp_path, name="new")
    assert run_gate("--baseline", baseline, "--candidate", candidate) == 0
    out = capsys.readouterr().out
    assert "PASS         HellaSwag  45.00 → 45.00 (0.00)     critical: no doc's score changed" in out
    assert out.rstrip().endswith("gate: PASS (no row dropped by more than allowed), exit code 0")


@pytest.mark.parametrize(
    "scores, verdict",
    [
        (changed(60, 10), "REGRESSION"),  # 5 points down, sure
        (changed(4, 3), "PASS"),  # 0.1 down, and 1000 docs with 7 flips can tell
        (changed(0, 60), "PASS"),  # better
        (changed(15, 0), "PASS"),  # a real drop of 1.5, which the policy allows
        (changed(300, 275), "INCONCLUSIVE"),  # 2.5 down, but so many flips that it may be chance
        (changed(200, 200), "INCONCLUSIVE"),  # 0 down, but the noise would hide a drop of 2
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
    assert [Rule().allowed(metric, 5) for metric in (percent, rating)] == [2, 0.2]
    assert [Rule(margin=1).allowed(metric, 5) for metric in (percent, rating)] == [1, 0.1]
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
        run_with(tmp_path, scores={"hellaswag": BASE, "piqa": changed(60)}),
    )
    (tmp_path / "policy.toml").write_text(f'[rows.PIQA]\ntier = "{tier}"\n')
    words = ("--baseline", baseline, "--candidate", candidate, "--policy", "policy.toml")
    assert run_gate(*words) == code


@pytest.mark.parametrize("tier, code", [("critical", 4), ("supporting", 0), ("advisory", 0)])
def test_tiers_of_an_inconclusive_row(tmp_path, tier, code):
    baseline = run_with(tmp_path)
    candidate = run_with(tmp_path, scores={"hellaswag": BASE, "piqa": changed(200, 200)})
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


# --- policy ---


def test_margin_and_alpha_of_the_command_line_stand_for_the_defaults(tmp_path):
    baseline = run_with(tmp_path)
    candidate = run_with(
        tmp_path, scores={"hellaswag": BASE, "piqa": changed(15)}
    )  # 1.5 points down, for sure
    (tmp_path / "policy.toml").write_text("[defaults]\nmax_drop = 9\n")
    words = ("--baseline", baseline, "--candidate", candidate, "--policy", "policy.toml")
    assert run_gate(*words) == 0
    assert run_gate(*words, "--margin", "1") == 1
    assert run_gate(*words, "--margin", "1", "--alpha", "0.00001") == 4  # then it may be chance
    (tmp_path / "policy.toml").write_text("[rows.PIQA]\nmargin = 9\n")
    assert run_gate(*words, "--margin", "1") == 0  # a row's own rule stays
    for option, value in (("--margin", "-1"), ("--margin", "nan"), ("--alpha", "0.5"), ("--alpha", "0")):
        with pytest.raises(UserError, match=f"{option} .*must"):
            run_gate(*words, option, value)


def test_policy_from_pyproject(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text(
        "[tool.smol-evals.gate.rows.PIQA]\nmax_drop = 0.5\n[tool.smol-evals.gate.defaults]\nalpha = 0.01\n"
    )
    policy = load_policy(None, project)
    assert policy.rule("PIQA") == Rule(max_drop=0.5, alpha=0.01)
    assert policy.rule("HellaSwag") == Rule(alpha=0.01)
    assert "pyproject.toml" in policy.source
    project.write_text("[tool.other]\n")
    assert load_policy(None, project) == Policy()
    assert load_policy(None, tmp_path / "none.toml") == Policy()


BAD_POLICIES = {
    "max_drops = 1": "unknown 'max_drops'",
    "[defaults]\nmax_drops = 1": "did you mean 'max_drop'",
    "[defaults]\nmargin = -1": "zero or more",
    "[rows.PIQUA]\ntier = 'advisory'": "did you mean 'PIQA'",
    "[defaults]\ntier = 'urgent'": "critical, supporting, advisory",
    "[defaults]\nmax_drop = -1": "zero or more",
    "[defaults]\nmax_drop = nan": "must be a number",
    "[defaults]\nmax_drop = true": "must be a number",
    "[defaults]\nmin_n = 1.5": "whole number",
    "[defaults]\nmin_n = 0": "1 or more",
    "[defaults]\nalpha = 0.7": "between 0 and 0.5",
    "defaults = 3": "must be a table",
    "rows = 3": "table of tables",
    "[defaults": "not valid TOML",
}


@pytest.mark.parametrize("text, message", BAD_POLICIES.items())
def test_bad_policies(tmp_path, text, message):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_policy(path)


def test_no_policy_file(tmp_path):
    with pytest.raises(UserError, match="no policy file"):
        load_policy(tmp_path / "nowhere.toml")


# --- outputs ---


@pytest.fixture
def mixed(tmp_path):
    """A regression, an inconclusive row, a missing one and a pass."""
    labels = ("HellaSwag", "PIQA", "Winogrande", "OpenBookQA")
    tasks = ("hellaswag", "piqa", "winogrande", "openbook_qa")
    baseline = run_with(tmp_path, labels=labels, scores=dict.fromkeys(tasks, BASE))
    scores = {**dict.fromkeys(tasks, BASE), "piqa": changed(200, 200), "hellaswag": changed(100)}
    candidate = run_with(tmp_path, labels=labels, scores=scores, missing=("Winogrande",))
    return gate.gate(load_run(baseline), load_run(candidate), Policy())


def test_junit(mixed):
    suite = ElementTree.fromstring(gate_output.junit_xml(mixed))
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "skipped": "1",
    }
    outcome = {case.get("name"): [child.tag for child in case] for case in suite}
    assert outcome == {
        "HellaSwag": ["failure"],
        "PIQA": ["skipped"],
        "Winogrande": ["failure"],
        "OpenBookQA": [],
    }


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
    gate_output.write_outputs(mixed, 1, None, None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert [line.split(" title=")[0] for line in lines] == ["::error"] * 3
    assert lines[0].startswith("::error title=REGRESSION%3A HellaSwag::dropped by 10.00")
    assert (tmp_path / "summary").read_text().startswith("earlier step\n# ❌")
    assert (tmp_path / "output").read_text() == "verdict=REGRESSION\n"
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "no" / "output"))
    with pytest.raises(UserError, match="GITHUB_OUTPUT"):
        gate_output.write_outputs(mixed, 1, None, None)


def test_annotations_escape_what_github_would_read():
    assert gate_output._data("50%\r\n::set") == "50%25%0D%0A::set"
    assert gate_output._property("a:b,c") == "a%3Ab%2Cc"


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
        "import sys, argparse, evals.commands.gate as g;"
        "g.add_arguments(argparse.ArgumentParser()); print(*sys.modules)"
    )
    root = Path(gate.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert not {"numpy", "pyarrow", "torch", "scipy", "lighteval"} & set(done.stdout.split())


# --- bless ---


def run_bless(*words) -> int:
    parser = argparse.ArgumentParser()
    bless_command.add_arguments(parser)
    return bless_command.main(parser.parse_args([str(word) for word in words]))


def test_a_blessed_run_gates_like_the_run(tmp_path, capsys):
    labels = ("IFEval (Average prompt/inst)", "MMLU (cloze)", "BBH (3-shot)", "MT-Bench")
    run = build(tmp_path / "a", Made(suite="instruct", labels=labels, size=40))
    worse = build(tmp_path / "b", Made(suite="instruct", labels=labels, size=40, share=0.3, seed=5))
    assert run_bless(run, "--as", "main-1.0", "--baselines", tmp_path / "kept") == 0
    assert "baseline 'main-1.0' is now tiny float32 instruct" in capsys.readouterr().out
    blessed = load_run(tmp_path / "kept" / "main-1.0")
    original = load_run(run)
    assert [(r.label, r.value, r.stderr) for r in blessed.rows] == [
        (r.label, r.value, r.stderr) for r in original.rows
    ]
    for candidate in (run, worse):
        one = gate.gate(original, load_run(candidate), Policy())
        two = gate.gate(blessed, load_run(candidate), Policy())
        assert one.rows == two.rows
    assert two.rows[1].verdict == "REGRESSION"
    code = run_gate("--baseline", "main-1.0", "--candidate", worse, "--baselines", tmp_path / "kept")
    assert code == 1


def test_a_baseline_is_small_and_holds_no_text(tmp_path):
    scores = {"hellaswag": BASE * 10, "piqa": BASE}
    run = run_with(tmp_path, scores=scores)
    assert run_bless(run, "--as", "big", "--baselines", tmp_path / "kept") == 0
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 250_000
    for path in files:
        content = path.read_bytes()
        assert b"Prompt 7" not in content
        assert b" left" not in content
    assert set(load_run(tmp_path / "kept" / "big").columns("piqa")) == {
        "doc_id",
        "prompt_hash",
        "group",
        "acc",
        "acc_norm_nospace",
    }


def test_blessing_again_replaces_and_says_so(tmp_path, capsys):
    first, second = run_with(tmp_path), run_with(tmp_path, name="second")
    for run in (first, second):
        run_bless(run, "--as", "main", "--baselines", tmp_path / "kept")
    assert "is now second float32 base" in capsys.readouterr().out
    assert load_run(tmp_path / "kept" / "main").name == "second"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["main"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "x" * 101, "a\nb", "-x", "a\\b"])
def test_a_name_is_never_a_path(tmp_path, name):
    run = run_with(tmp_path)
    with pytest.raises(UserError, match="no name of a baseline"):
        bless.checked_name(name)
    with pytest.raises(UserError):
        run_gate(f"--baseline={name or '?'}", "--candidate", run, "--baselines", tmp_path / "kept")


def test_an_unusable_run_is_not_blessed(tmp_path):
    run = run_with(tmp_path)
    edit(run, lambda r: r["rows"][0].update(value=99.0))
    with pytest.raises(UserError):
        run_bless(run, "--as", "main", "--baselines", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_unknown_baselines_name_the_known_ones(tmp_path):
    run = run_with(tmp_path)
    with pytest.raises(UserError, match="none is blessed yet"):
        run_gate("--baseline", "main", "--candidate", run, "--baselines", tmp_path / "kept")
    run_bless(run, "--as", "main", "--baselines", tmp_path / "kept")
    with pytest.raises(UserError, match="blessed are main"):
        run_gate("--baseline", "mian", "--candidate", run, "--baselines", tmp_path / "kept")


# --- promises, by simulation ---


def simulated(generator, rows: int, n: int, flips: float, drop: float, policy: Policy):
    """One gate of so many rows, where docs flip either way and the first row truly drops by `drop` (a fraction)."""
    pairs = {}
    for k in range(rows):
        lost = drop if k == 0 else 0.0  # a drop brings flips of its own
        kind = generator.choice(3, n, p=[flips / 2 + lost, flips / 2, 1 - flips - lost])
        before = np.where(kind == 0, 1.0, np.where(kind == 1, 0.0, 1.0))
        after = np.where(kind == 0, 0.0, 1.0)
        difference = significance.paired_difference([before], [after], scale=100)
        pairs[f"row {k}"] = (get_metric("acc"), 100 * before.mean(), 100 * after.mean(), difference)
    return gate.judge(pairs, policy)


def test_false_alarms_stay_below_alpha():
    """Nothing changed but noise, and no drop is allowed: the hardest case for the error rate of the whole gate."""
    generator = np.random.default_rng(11)
    policy = Policy(Rule(max_drop=0.0))
    trials = 600
    alarms = sum(
        any(row.verdict == "REGRESSION" for row in simulated(generator, 6, 500, 0.1, 0.0, policy).values())
        for _ in range(trials)
    )
    # 0.05 with a simulation error of 0.009
    assert alarms / trials <= 0.068


@pytest.mark.parametrize("max_drop", [0.0, 3.0])
def test_a_drop_of_the_stated_mde_is_found_four_times_in_five(max_drop):
    generator = np.random.default_rng(12)
    policy = Policy(Rule(max_drop=max_drop))
    rows, n, flips, trials = 6, 2000, 0.12, 400
    before = [simulated(generator, rows, n, flips, 0.0, policy)["row 0"].mde for _ in range(20)]
    mde = float(np.median(before))
    results = [simulated(generator, rows, n, flips, mde / 100, policy)["row 0"] for _ in range(trials)]
    found = sum(row.verdict == "REGRESSION" for row in results)
    assert 0.75 <= found / trials <= 0.85
