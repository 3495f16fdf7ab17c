"""The formulas against scipy and closed forms; coverage, level and power by seeded simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evals.core import statistics as st
from evals.core.metric import get_metric
from reports import significance as sg

RATING = get_metric("judge_score")


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- against scipy and closed forms ---


def test_mean_is_scipys_standard_error():
    scores = rng().random(101)
    estimate = st.mean(scores)
    assert estimate.value == pytest.approx(scores.mean())
    assert estimate.stderr == pytest.approx(stats.sem(scores))
    assert st.mean(np.array([1.0])).stderr is None


def test_average_adds_squared_weighted_errors():
    parts = [st.Estimate(0.4, 0.03, 100), st.Estimate(0.6, 0.04, 50)]
    assert st.average(parts) == st.Estimate(pytest.approx(0.5), pytest.approx(0.025), 150)
    assert st.weighted_sum(parts, [1, -1]).stderr == pytest.approx(0.05)
    assert st.average([parts[0], st.Estimate(1.0, None, 1)]).stderr is None


def test_clustered_mean_follows_millers_formula_with_the_small_sample_factor():
    scores = np.array([1, 1, 0, 0, 1, 0, 0.0])
    clusters = ["a", "a", "b", "b", "c", "d", "d"]
    estimate = st.clustered_mean(scores, clusters)
    deviations = scores - scores.mean()
    sums = [deviations[[c == name for c in clusters]].sum() for name in "abcd"]
    expected = math.sqrt(sum(s * s for s in sums) * 4 / 3) / len(scores)
    assert estimate.stderr == pytest.approx(expected)
    assert estimate.value == pytest.approx(scores.mean())
    alone = st.clustered_mean(scores, range(7))
    assert alone.stderr == pytest.approx(stats.sem(scores))


@pytest.mark.parametrize("successes, n", [(0, 10), (3, 17), (50, 100), (541, 541)])
def test_wilson_is_scipys(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert st.wilson(successes, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("worse, better", [(0, 0), (1, 0), (5, 2), (2, 5), (30, 30), (800, 700)])
def test_mcnemar_is_the_exact_binomial_test(worse, better):
    p, p_worse = sg.mcnemar(worse, better)
    if worse + better:
        assert p == pytest.approx(stats.binomtest(worse, worse + better).pvalue)
        assert p_worse == pytest.approx(stats.binomtest(worse, worse + better, alternative="greater").pvalue)
    else:
        assert (p, p_worse) == (1, 1)


def test_quantiles_are_scipys():
    assert st.two_sided_z(0.95) == pytest.approx(stats.norm.ppf(0.975))
    assert st.upper_tail(9.0) == pytest.approx(stats.norm.sf(9.0))


def test_equivalence_is_two_one_sided_z_tests():
    expected = max(stats.norm.sf((2 - 0.5) / 0.8), stats.norm.sf((2 + 0.5) / 0.8))
    assert sg.equivalence(0.5, 0.8, 2.0) == pytest.approx(expected)
    assert sg.equivalence(-0.5, 0.8, 2.0) == pytest.approx(expected)
    assert sg.equivalence(0.5, 0.0, 2.0) == 0.0
    assert sg.equivalence(2.5, 0.0, 2.0) == 1.0


def test_holm_on_the_textbook_case():
    # 0.01·4, 0.02·3, max(0.06, 0.03·2), max(0.06, 0.04·1)
    assert sg.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert sg.holm([0.6, 0.7]) == [1.0, 1.0]
    assert sg.holm([]) == []


def test_paired_difference_of_right_or_wrong_docs():
    first = np.array([1, 1, 1, 0, 0, 1, 0, 0.0])
    second = np.array([1, 0, 0, 0, 1, 0, 0, 0.0])
    result = sg.paired_difference([first], [second], scale=100)
    assert result.value == pytest.approx(-25)
    assert result.stderr == pytest.approx(100 * stats.sem(second - first))
    assert (result.n, result.changed, result.test) == (8, 4, "exact McNemar")
    assert result.p == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert result.spread == pytest.approx(100**2 * 4 / 8 / 8)


def test_paired_difference_without_a_changed_doc():
    scores = np.array([1.0, 0.0, 1.0])
    result = sg.paired_difference([scores], [scores])
    assert (result.value, result.stderr, result.p, result.changed) == (0, 0, 1, 0)


def test_paired_bootstrap_is_seeded_and_near_the_t_test():
    differences = rng().normal(0.1, 1, 400)
    p, p_worse = sg.bootstrap_test([differences], [1.0])
    assert (p, p_worse) == sg.bootstrap_test([differences], [1.0])
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert p_worse == pytest.approx(stats.ttest_1samp(differences, 0, alternative="less").pvalue, abs=0.02)


# --- metrics from sample columns ---

IFEVAL = {
    "prompt_level_strict_acc": [1, 0, 0],
    "prompt_level_loose_acc": [1, 1, 0],
    "inst_level_strict_acc": [[1], [1, 0], [0, 1, 1]],
    "inst_level_loose_acc": [[1], [1, 1], [0, 1, 1]],
}


def test_ifeval_row_counts_the_correlation_of_its_two_levels():
    metrics = st.summarize_task(IFEVAL)
    assert metrics["inst_level_strict_acc"]["value"] == pytest.approx(4 / 6)
    assert metrics["ifeval"]["value"] == pytest.approx((1 / 3 + 4 / 6) / 2)
    assert metrics["ifeval_loose"]["value"] == pytest.approx((2 / 3 + 5 / 6) / 2)
    # by hand: influence of each prompt on the row, prompts as clusters
    instruction = [(y - 4 / 6 * m) / 2 for y, m in [(1, 1), (1, 2), (2, 3)]]
    influence = [0.5 * (p - 1 / 3) + 0.5 * i for p, i in zip([1, 0, 0], instruction, strict=True)]
    expected = math.sqrt(sum(i * i for i in influence) / 2 / 3)
    assert metrics["ifeval"]["stderr"] == pytest.approx(expected)


def test_macro_average_weighs_groups_equally():
    columns = {"acc_norm_nospace": [1, 1, 1, 0, 0, 1], "group": ["a", "a", "a", "a", "b", "b"]}
    metric = st.summarize_task(columns)["acc_norm_nospace_macro"]
    assert metric["value"] == pytest.approx((0.75 + 0.5) / 2)
    errors = [stats.sem([1, 1, 1, 0]), stats.sem([0, 1])]
    assert metric["stderr"] == pytest.approx(math.hypot(*errors) / 2)
    assert "acc_norm_nospace_macro" not in st.summarize_task({**columns, "group": [None] * 6})


def test_rows_are_in_the_cards_units():
    samples = {"arc_easy": {"acc_norm_nospace": [1, 0, 1, 1]}, "arc_challenge": {"acc_norm_nospace": [0, 1]}}
    row = st.summarize_row(get_metric("acc_norm_nospace"), samples)
    errors = [stats.sem([1, 0, 1, 1]), stats.sem([0, 1])]
    assert row == {
        "value": pytest.approx(62.5),
        "stderr": pytest.approx(50 * math.hypot(*errors)),
        "n": 6,
    }


def test_ratings_are_clustered_by_question_and_unrated_turns_left_out():
    row = st.summarize_row(RATING, {"mt_bench": {"judge_score": [[4, 2], [3], [], [10, 9]]}})
    assert row["value"] == pytest.approx(28 / 5)
    assert row["n"] == 3
    rated = st.summarize_row(RATING, {"mt_bench": {"judge_score": [[4, 2], [3], [10, 9]]}})
    assert row["stderr"] == pytest.approx(rated["stderr"])


def test_one_answer_with_a_rating_among_many_tells_no_error():
    columns = {"judge_score": [[], [], [10], []]}
    assert st.summarize_row(RATING, {"mt_bench": columns}) == {"value": 10.0, "stderr": None, "n": 1}
    assert st.summarize_task(columns) == {"judge_score": {"value": 10.0, "stderr": None}}


def test_a_row_without_scores_has_no_value():
    assert st.summarize_row(RATING, {"mt_bench": {"doc_id": [1, 2]}}) == {
        "value": None,
        "stderr": None,
        "n": 2,
    }


# --- promises, by simulation ---


def test_intervals_cover():
    generator = rng()
    n, trials = 150, 2000
    wilson = normal = 0
    for successes in generator.binomial(n, 0.07, trials):
        low, high = st.wilson(int(successes), n)
        wilson += low <= 0.07 <= high
    for _ in range(trials):
        low, high = st.mean((generator.random(n) < 0.4).astype(float)).interval()
        normal += low <= 0.4 <= high
    assert 0.93 <= wilson / trials <= 0.97
    assert 0.93 <= normal / trials <= 0.97


def test_the_ifeval_interval_covers_when_prompts_differ():
    generator = rng()
    trials, covered = 600, 0
    sizes = np.array([1, 2, 3])
    # instructions of a prompt succeed together: p ~ uniform a prompt, so E[y/m] = 1/2 and E[all m] = 1/(m+1)
    truth = 0.5 * np.mean(1 / (sizes + 1)) + 0.5 * 0.5
    for _ in range(trials):
        m = generator.choice(sizes, 120)
        p = generator.random(120)
        items = [(generator.random(k) < q).astype(int).tolist() for k, q in zip(m, p, strict=True)]
        columns = {"prompt_level_strict_acc": [int(all(i)) for i in items], "inst_level_strict_acc": items}
        low, high = st.row_estimate(get_metric("ifeval"), {"ifeval": columns}).interval()
        covered += low <= truth <= high
    assert 0.92 <= covered / trials <= 0.975


def flips(
    generator: np.random.Generator, n: int, worse: float, better: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two runs' right/wrong scores where a doc turns wrong or right with these chances."""
    kind = generator.choice(3, n, p=[worse, better, 1 - worse - better])
    stay = (generator.random(n) < 0.5).astype(float)
    first = np.where(kind == 0, 1.0, np.where(kind == 1, 0.0, stay))
    second = np.where(kind == 0, 0.0, np.where(kind == 1, 1.0, stay))
    return first, second


def test_paired_tests_keep_their_level():
    generator = rng()
    trials = 400
    exact = boot = 0
    for _ in range(trials):
        one, two = flips(generator, 300, 0.1, 0.1), flips(generator, 200, 0.1, 0.1)
        exact += sg.paired_difference([one[0]], [one[1]]).p < 0.05
        boot += sg.paired_difference([one[0], two[0]], [one[1], two[1]]).p < 0.05
    assert exact / trials <= 0.07
    assert 0.02 <= boot / trials <= 0.085


def test_the_mde_solves_its_equation():
    scores = np.array([1.0] * 90 + [0.0] * 10), np.array([1.0] * 80 + [0.0] * 16 + [1.0] * 4)
    difference = sg.paired_difference([scores[0]], [scores[1]], scale=100)
    drop = sg.detectable(difference, 100, 0.025) / 100
    stderr = math.sqrt((14 / 100 + drop - drop**2) / 100)
    assert drop == pytest.approx((1.959964 + 0.841621) * stderr, rel=1e-5)
    drop = sg.detectable(difference, 100, 0.025, allowed=20) / 100
    assert drop == pytest.approx(0.2 + 0.841621 * math.sqrt((0.14 + drop - drop**2) / 100), rel=1e-5)
    same = sg.paired_difference([scores[0]], [scores[0]], scale=100)
    assert sg.detectable(same, 100, 0.025) == pytest.approx(100 * 7.848879 / (100 + 7.848879), rel=1e-5)
    assert sg.detectable(same, math.inf, 0.025) == 0
    assert sg.detectable(sg.paired_difference([scores[0][:1]], [scores[1][:1]]), 1, 0.025) == math.inf


@pytest.mark.parametrize("rows, n, flipped", [(1, 800, 0.15), (7, 400, 0.05), (7, 2000, 0.2)])
def test_the_stated_mde_is_found_four_times_in_five(rows, n, flipped):
    """One row of several truly drops; Holm counts all of them."""
    generator = rng()
    trials = 500
    before = [flips(generator, n, flipped / 2, flipped / 2) for _ in range(20)]
    planned = [sg.paired_difference([a], [b]) for a, b in before]
    drop = float(np.median([sg.detectable(one, 1.0, 0.025 / rows) for one in planned]))
    found = 0
    for _ in range(trials):
        pairs = [flips(generator, n, flipped / 2 + drop * (k == 0), flipped / 2) for k in range(rows)]
        found += sg.holm([sg.paired_difference([a], [b]).p for a, b in pairs])[0] < 0.05
    assert 0.74 <= found / trials <= 0.86


def test_holm_keeps_the_familywise_level():
    generator = rng()
    p = generator.random((2000, 9))
    false = sum(min(sg.holm(list(row))) < 0.05 for row in p)
    assert false / 2000 <= 0.065


def test_reproduction_keeps_both_levels_for_correlated_answers():
    """Same docs, answers alike with r = 0.9: a number truly `margin` away is rarely called reproduced."""
    generator = rng()
    docs, p, trials = 1200, 0.4, 800
    reproduced = differs = 0
    for _ in range(trials):
        ours = (generator.random(docs) < p).astype(float)
        redraw = generator.random(docs) < 0.1
        theirs = np.where(redraw, (generator.random(docs) < p).astype(float), ours)
        estimate = st.Estimate(100 * ours.mean(), 100 * stats.sem(ours), docs)
        for shift in (0.0, 2.5):
            result = sg.reproduction(
                estimate, round(100 * theirs.mean() + shift, 1), 1, docs, margin=2.5, correlation=0.9
            )
            if shift:
                reproduced += result.verdict == "reproduced"
            else:
                differs += result.verdict == "differs"
    assert reproduced / trials <= 0.07
    assert differs / trials <= 0.07


def test_reproduction_says_what_n_could_tell():
    few = sg.reproduction(st.Estimate(42.0, 4.9, 100), 42.1, 1, 10042, margin=2.5, correlation=0.9)
    assert few.verdict == "cannot tell"
    assert few.needed is not None and 100 < few.needed <= 10042
    assert (
        sg.reproduction(st.Estimate(42.0, 0.49, 10042), 42.1, 1, 10042, margin=2.5, correlation=0.9).verdict
        == "reproduced"
    )
    assert (
        sg.reproduction(st.Estimate(37.0, 0.49, 10042), 42.1, 1, 10042, margin=2.5, correlation=0.9).verdict
        == "differs"
    )
    # as independent samples 500 docs can never tell 2.5 points
    assert sg.reproduction(st.Estimate(37.4, 2.2, 500), 37.4, 1, 500, margin=2.5).needed is None


def test_reproduction_as_independent_samples_doubles_the_variance_and_adds_rounding():
    result = sg.reproduction(st.Estimate(40.0, 2.0, 500), 41.0, 0, 500, margin=2.5)
    assert result.stderr == pytest.approx(math.sqrt(2 * 4 + 1 / 12))
    assert result.p_differs == pytest.approx(2 * stats.norm.sf(1 / result.stderr))


def test_ranks_tie_what_cannot_be_told_apart():
    values = [50.0, 49.5, 40.0]
    p = {(1, 0): 0.6, (2, 0): 0.001, (2, 1): 0.002}
    assert sg.ranks(values, lambda i, j: p[i, j]) == [1, 1, 3]


def test_start_is_light():
    """scipy.stats takes over a second to import: the module must not."""
    import subprocess
    import sys

    code = "import sys, evals.core.statistics; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_mean_of_rows_leaves_out_ratings_and_rows_without_a_value() -> None:
    rows = [("acc", sg.Estimate(40.0, 3.0, 10)), ("exact_match", sg.Estimate(60.0, 4.0, 30)), ("acc", None)]
    rows.append(("judge_score", sg.Estimate(7.0, 0.1, 80)))
    mean = sg.mean_of_rows((get_metric(name), estimate) for name, estimate in rows)
    assert mean == sg.Estimate(50.0, 2.5, 40)  # half the hypotenuse of 3 and 4
    assert sg.mean_of_rows([(get_metric("judge_score"), sg.Estimate(7.0, 0.1, 80))]) is None
