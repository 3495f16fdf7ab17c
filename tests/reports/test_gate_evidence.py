"""Evidence finer than right or wrong: what happened to the gold answers, and what it decides."""

from __future__ import annotations

import numpy as np
import pytest

from reports.gate.evidence import docs_of_tasks, row_evidence
from reports.gate.gold import GOLD, MARGIN, gold_columns
from reports.gate.output import kind
from reports.gate.planning import plan_rows
from reports.gate.policy import Policy, Rule
from reports.gate.verdict import INCONCLUSIVE, OPEN, PASS, REGRESSION, judge
from reports.gate.whole import gate
from reports.runs import load_run
from reports.significance import MEAN
from tests.support.made_runs import Made, build, edit_samples

DOCS = 3000


def made(folder, name, shift=0.0, noise=0.0, lose=0.0, first=None, docs=DOCS):
    """A run of PIQA and ARC with margins of two choices; every margin shifted, blurred; gold answers less likely."""
    base = build(
        folder, Made(name=name, labels=("PIQA", "ARC (Average)"), scores=scores(shift, noise, docs, first))
    )
    for task, n in tasks(docs).items():
        margins = drawn(task, n, shift, noise)[:first]
        ahead = np.maximum(margins, 0.0), np.maximum(-margins, 0.0)
        pairs = np.stack([-2.0 - lose - ahead[1], -2.0 - lose - ahead[0]], axis=1) * 4
        edit_samples(base, task, lambda columns, pairs=pairs: columns.update(logprobs=pairs.tolist()))
    return load_run(base)


def tasks(docs):
    return {"piqa": docs, "arc_easy": docs // 2, "arc_challenge": docs // 4}


def drawn(task, n, shift, noise):
    generator = np.random.default_rng([*task.encode()])
    margins = generator.standard_normal(n) + 0.2
    return margins - shift + noise * np.random.default_rng([1, *task.encode()]).standard_normal(n)


def scores(shift, noise, docs, first):
    return {
        task: (drawn(task, n, shift, noise) >= 0).astype(int)[:first].tolist()
        for task, n in tasks(docs).items()
    }


def test_gold_answers_in_words(tmp_path):
    base = made(tmp_path, "a")
    columns = gold_columns(base, "piqa")
    margins = drawn("piqa", DOCS, 0, 0)
    assert np.allclose(columns[MARGIN], margins) and np.allclose(
        columns[GOLD], 4 * (-2.0 - np.maximum(-margins, 0))
    )
    same = row_evidence(base, made(tmp_path, "b"), "PIQA")
    words = "gold answers are as likely as before (0.0 % less likely a token, within chance)"
    assert same.soft.value == 0 and same.gold.words == words
    less = row_evidence(base, made(tmp_path, "c", lose=0.00787), "PIQA")
    assert less.gold.words == "gold answers became 3.1 % less likely a token" and less.loss == 0
    blurred = row_evidence(base, made(tmp_path, "d", noise=0.05), "PIQA")
    assert (
        blurred.gold.flipped == blurred.difference.changed > 10 and blurred.gold.near == blurred.gold.flipped
    )


def test_the_kind_of_a_change(tmp_path):
    base = made(tmp_path, "a")

    def words(candidate):
        result = gate(base, candidate, Policy())
        return kind(result.rows[0].evidence, result)

    assert words(made(tmp_path, "b", noise=0.05)).startswith("near ties flip (")
    assert words(made(tmp_path, "c", shift=0.2)).startswith("gold answers became ")


def test_a_noisy_row_that_lost_no_mass_is_unchanged(tmp_path):
    """Accuracy alone cannot tell; the gold answers can."""
    base = made(tmp_path, "a", docs=600)
    candidate = made(tmp_path, "b", noise=0.3, docs=600)
    alone, both = (
        {row.label: row for row in gate(base, candidate, Policy(Rule("critical", evidence=evidence))).rows}
        for evidence in ("accuracy", "both")
    )
    assert alone["PIQA"].verdict == INCONCLUSIVE and "--allow-inconclusive" in alone["PIQA"].reason
    assert both["PIQA"].verdict == PASS and both["PIQA"].reason.startswith("unchanged: gold answers")


@pytest.mark.parametrize("shift, verdict", [(0.0, PASS), (0.5, REGRESSION)])
def test_the_first_docs_are_enough_where_it_is_sure(tmp_path, shift, verdict):
    base, policy = made(tmp_path, "a"), Policy()
    plan = plan_rows(base, policy)
    first = {label: made(tmp_path, f"b{label}", shift=shift, noise=0.02, first=700) for label in ("PIQA",)}
    found = {"PIQA": row_evidence(base, first["PIQA"], "PIQA", early=True)}
    row = judge(plan, found)["PIQA"]
    assert row.verdict == verdict and row.evidence.difference.n == 700 and not row.evidence.whole
    few = made(tmp_path, "c", shift=shift, noise=0.02, first=20)
    found = {"PIQA": row_evidence(base, few, "PIQA", early=True)}
    assert judge(plan, found)["PIQA"].verdict == OPEN


def test_drawn_docs_of_several_tasks_have_the_rows_loss(tmp_path):
    base, worse = made(tmp_path, "a"), made(tmp_path, "b", shift=0.3)
    one = row_evidence(base, worse, "ARC (Average)", early=True)
    assert one.whole and one.drawn.total == DOCS // 2 + DOCS // 4
    assert one.drawn.losses.mean() == pytest.approx(one.loss) and one.loss > 5
    assert one.soft_drawn.losses.mean() == pytest.approx(-one.soft.value)
    assert abs(one.drawn.losses).max() <= one.drawn.bound == pytest.approx(150)
    assert sum(docs_of_tasks((DOCS // 2, DOCS // 4), 600)) == 600
    assert min(docs_of_tasks((241,) * 27, 32)) == 2  # a task without a doc would make the row missing


def test_the_mean_of_all_rows_is_a_row(tmp_path):
    base, worse = made(tmp_path, "a"), made(tmp_path, "b", shift=0.2)
    row = next(row for row in gate(base, worse, Policy(Rule(evidence="accuracy"))).rows if row.label == MEAN)
    parts = [row_evidence(base, worse, label, finer=False).loss for label in ("PIQA", "ARC (Average)")]
    assert row.evidence.loss == pytest.approx(np.mean(parts)) and row.verdict == REGRESSION
    assert row.planned.allowed == pytest.approx(1.0) and row.tier == "supporting"
