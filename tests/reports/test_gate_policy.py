"""The policy file: every key is checked, and the example in the project says what the defaults are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from evals.core.errors import UserError
from reports.gate import policy as policy_module
from reports.gate.policy import Policy, Rule, load_policy
from reports.margins import POINTS
from reports.significance import MEAN
from tests.support.gates import BASE, CI_VARIABLES, changed, run_gate, run_with


@pytest.fixture(autouse=True)
def no_ci(monkeypatch, tmp_path):
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_margin_and_alpha_of_the_command_line_stand_for_the_defaults(tmp_path):
    baseline = run_with(tmp_path)
    candidate = run_with(
        tmp_path, scores={"hellaswag": BASE, "piqa": changed(30)}
    )  # 1.5 points down, for sure
    (tmp_path / "policy.toml").write_text("[defaults]\nmax_drop = 9\ntier = 'critical'\n")
    words = ("--baseline", baseline, "--candidate", candidate, "--policy", "policy.toml")
    assert run_gate(*words) == 0
    assert run_gate(*words, "--margin", "1") == 1
    assert run_gate(*words, "--margin", "1", "--alpha", "1e-10") == 4  # then it may be chance
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
    assert policy.rule("PIQA") == Rule(max_drop=0.5)
    assert policy.rule("HellaSwag") == Rule() and policy.alpha == 0.01
    assert "pyproject.toml" in policy.source
    project.write_text("[tool.other]\n")
    assert load_policy(None, project) == Policy()
    assert load_policy(None, tmp_path / "none.toml") == Policy()


def test_the_example_holds_every_key_with_its_default():
    example = Path(policy_module.__file__).with_name("policy.example.toml")
    policy = load_policy(example)
    assert policy == replace(Policy(Rule(margin=POINTS)), rows=policy.rows, source=str(example))
    assert policy.rule("GSM8K (5-shot)") == Rule("supporting", POINTS) and policy.rule(MEAN).max_drop == 0.8
    text = example.read_text()
    for key in (*policy_module.GATE_KEYS, *policy_module.RULE_KEYS):
        assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), key
    readme = [line.strip() for line in (Path(__file__).parents[2] / "README.md").read_text().splitlines()]
    assert all(line.strip() in readme for line in text.splitlines()[4:]), (
        "the README shows the example as it is"
    )
    for value in re.findall(r"^# (tier|max_drop) = (\S+)", text, re.MULTILINE):
        assert value in (("tier", '"critical"'), ("max_drop", "2.0"))


BAD_POLICIES = {
    "[rows.PIQA]\nalpha = 0.01": "unknown 'alpha'",
    "[defaults]\nbeta = 0": "beta: Input should be greater than 0",
    "[defaults]\nmax_relative_drop = 100": "max_relative_drop: Input should be less than 100",
    "max_drops = 1": "unknown 'max_drops'",
    "[defaults]\nmax_drops = 1": "did you mean 'max_drop'",
    "[defaults]\nmargin = -1": "margin: Input should be greater than or equal to 0",
    "[rows.PIQUA]\ntier = 'advisory'": "did you mean 'PIQA'",
    "[defaults]\ntier = 'urgent'": "'critical', 'supporting' or 'advisory'",
    "[defaults]\nevidence = 'logprobs'": "'accuracy', 'logprob' or 'both'",
    "[defaults]\nmax_drop = -1": "greater than or equal to 0",
    "[defaults]\nmax_drop = nan": "max_drop: Input should be a finite number",
    "[defaults]\nmax_drop = true": "max_drop: Input should be a valid number",
    "[defaults]\nmin_n = 1.5": "min_n: Input should be a valid integer",
    "[defaults]\nmin_n = 0": "min_n: Input should be greater than or equal to 1",
    "[rows.PIQA]\nmin_n = 0": "PIQA: min_n: Input",
    "[defaults]\nalpha = 0.7": "alpha: Input should be less than 0.5",
    "defaults = 3": "must be a table",
    "rows = 3": "rows must be a table",
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
