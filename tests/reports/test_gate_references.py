"""Generated rows: how likely their reference answers are is evidence too, and which verdicts rest on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evals.core.errors import UserError
from reports.gate.bless import bless
from reports.gate.evidence import row_evidence
from reports.gate.gold import GOLD, MARGIN, gold_columns, gold_pair
from reports.gate.output import plan_text
from reports.gate.planning import plan_rows
from reports.gate.policy import Policy, Rule
from reports.gate.verdict import INCONCLUSIVE, PASS, REGRESSION
from reports.gate.whole import gate
from reports.runs import Run, load_run
from tests.support.gates import run_gate
from tests.support.made_runs import Made, build, edit_samples

DOCS, LABEL, TOKENS = 2000, "GSM8K (5-shot)", 4
LOGPROB, BOTH = (Policy(Rule(max_drop=2.0, evidence=one)) for one in ("logprob", "both"))


def made(folder: Path, less: float = 0.0, lost: int = 0, noise: int = 0, references: bool = True) -> Run:
    """A run of GSM8K, 600 docs right less `lost`, `noise` flipped either way; answers less likely by `less` nats."""
    generator = np.random.default_rng(4)
    likely = generator.standard_normal(DOCS) - 3
    right = (np.argsort(np.argsort(-likely + generator.standard_normal(DOCS))) < 600).astype(int)
    ones, zeros = np.flatnonzero(right == 1), np.flatnonzero(right == 0)
    right[ones[: lost + noise]], right[zeros[:noise]] = 0, 1
    place = folder / str(len(list(folder.iterdir())))
    path = build(place, Made(labels=(LABEL, "PIQA"), scores={"gsm8k": right.tolist(), "piqa": [0, 1] * 1000}))
    if references:
        sums = ((likely - less) * TOKENS).tolist()
        edit_samples(
            path, "gsm8k", lambda c: c.update(reference_logprob=sums, n_reference_tokens=[TOKENS] * DOCS)
        )
    return load_run(path)


def row(baseline: Run, candidate: Run, policy: Policy) -> tuple[str, str]:
    (one,) = (row for row in gate(baseline, candidate, policy).rows if row.label == LABEL)
    return one.verdict, one.reason


def test_as_many_reference_answers_are_likely_enough_as_docs_are_right(tmp_path: Path) -> None:
    base, less = made(tmp_path), made(tmp_path, less=0.1)
    metric = base.row(LABEL).metric
    assert set(gold_columns(base, "gsm8k")) == {GOLD}
    one, two = gold_pair(metric, base, less, "gsm8k")
    assert np.mean(one[MARGIN] > 0) == pytest.approx(0.3, abs=0.001)
    assert np.allclose(one[MARGIN] - two[MARGIN], 0.1)
    evidence = row_evidence(base, less, LABEL)
    assert evidence.loss == 0 and -5 < evidence.soft.value < -1
    assert evidence.gold.words == "gold answers became 9.5 % less likely a token"


def test_what_verdicts_rest_on(tmp_path: Path) -> None:
    base, less = made(tmp_path), made(tmp_path, less=0.3)
    verdict, reason = row(base, less, LOGPROB)
    assert verdict == REGRESSION and reason.startswith("damaged: gold answers became 25.9 % less likely")
    # a text that is less likely may be answered as well: accuracy has the word
    assert row(base, less, BOTH) == (PASS, "no doc's score changed")
    same, noisy = made(tmp_path), made(tmp_path, noise=250)
    assert row(base, same, LOGPROB)[0] == PASS
    alone = Policy(Rule(max_drop=2.0, tier="critical", evidence="accuracy"))
    both = Policy(Rule(max_drop=2.0, tier="critical"))
    assert row(base, noisy, alone)[0] == INCONCLUSIVE
    assert row(base, noisy, both)[0] == PASS and "unchanged: gold answers" in row(base, noisy, both)[1]
    assert row(base, made(tmp_path, lost=200), both)[0] == REGRESSION
    assert row(base, made(tmp_path, less=0.03), LOGPROB)[0] in (PASS, INCONCLUSIVE)
    assert row(base, made(tmp_path, lost=600), LOGPROB)[0] == INCONCLUSIVE, "nothing is left: never a PASS"


def test_a_baseline_carries_them(tmp_path: Path) -> None:
    base, less = made(tmp_path), made(tmp_path, less=0.3)
    bless(base, "main", tmp_path / "baselines")
    kept = load_run(tmp_path / "baselines" / "main")
    assert np.allclose(gold_columns(kept, "gsm8k")[GOLD], gold_columns(base, "gsm8k")[GOLD], atol=1e-6)
    for policy in (LOGPROB, BOTH):
        assert row(kept, less, policy)[0] == row(base, less, policy)[0]


@pytest.mark.parametrize("has", [(True, False), (False, True), (False, False)])
def test_without_them_a_row_has_accuracy_alone_and_says_so(tmp_path: Path, has: tuple[bool, bool]) -> None:
    base, other = (made(tmp_path, references=one) for one in has)
    plan = plan_rows(base, BOTH, other)
    assert plan[LABEL].evidence == "accuracy" and plan["PIQA"].evidence == "both"
    assert f"accuracy alone: {LABEL} (no log-probabilities of gold answers" in plan_text(plan, BOTH)
    accuracy = Policy(Rule(evidence="accuracy"))
    assert "accuracy alone" not in plan_text(plan_rows(base, accuracy, other), accuracy)
    assert "accuracy alone" not in plan_text(plan_rows(made(tmp_path), BOTH), BOTH)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, less = made(tmp_path), made(tmp_path, less=0.3)
    words = ["--baseline", base.folder, "--candidate", less.folder, "--format", "json"]
    assert run_gate(*words, "--evidence", "both") == 0
    capsys.readouterr()
    assert run_gate(*words, "--evidence", "logprob") == 1
    captured = capsys.readouterr()
    found = {row["label"]: row["verdict"] for row in json.loads(captured.out)["rows"]}
    assert found[LABEL] == REGRESSION and found["PIQA"] == PASS
    assert "by log-probabilities alone" in captured.err
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[rows."{LABEL}"]\nevidence = "accuracy"\n')
    assert run_gate(*words, "--evidence", "logprob", "--policy", policy) == 0, "the row's own word counts"


def test_evidence_that_there_is_not_is_refused(tmp_path: Path) -> None:
    scores = {"gsm8k": [0, 1] * 1000}
    runs = [load_run(build(tmp_path / name, Made(labels=(LABEL,), scores=scores))) for name in "ab"]
    with pytest.raises(UserError, match="evidence 'logprob': no row of both runs has gold answers"):
        gate(*runs, LOGPROB)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float | None) -> None:
    base, broken = made(tmp_path), made(tmp_path)
    edit_samples(
        broken.folder, "gsm8k", lambda c: c.update(reference_logprob=[value, *c["reference_logprob"][1:]])
    )
    with pytest.raises(UserError, match="gold answer's log-probability is no finite number"):
        gate(base, load_run(broken.folder), BOTH)
