"""The gate keeps its promises in made-up gates: a small part of what tests/tools/gate_power.py prints."""

from __future__ import annotations

import pytest

from reports.gate.verdict import INCONCLUSIVE, PASS, REGRESSION
from tests.tools.gate_power import Kind, gates, plan_of, scenario, shares

GATES = 40


@pytest.mark.parametrize("noise", ["quiet", "noisy"])
@pytest.mark.parametrize("early", [False, True])
def test_an_unchanged_candidate_passes(noise, early):
    one = scenario(noise, Kind("default", early, True), GATES)
    assert one[REGRESSION] <= 0.15 and one[INCONCLUSIVE] == 0  # 5 % with three errors of this simulation
    assert one[PASS] >= 0.85
    assert not early or one["docs"] < 0.2


@pytest.mark.parametrize("early", [False, True])
def test_a_drop_of_the_stated_size_is_found(early):
    one = scenario("stated noisy", Kind("default", early, False), 60)
    assert 0.64 <= one["own"] <= 0.96  # 80 % with three errors of this simulation


def test_a_drop_of_four_points_is_found_early():
    one = scenario("4 in all", Kind("default", True, True), 20)
    assert one[REGRESSION] == 1 and one["docs"] < 0.05


def test_accuracy_alone_is_sure_after_a_fifth_of_the_docs():
    assert scenario("noisy", Kind("default", True, False), 15)["docs"] <= 0.2


def test_gates_are_the_same_however_they_are_divided():
    kind = Kind("default", True, True)
    whole, parts = gates("quiet", [kind], range(4)), [gates("quiet", [kind], [k]) for k in (0, 1, 2, 3)]
    assert whole[kind] == [one for part in parts for one in part[kind]]
    assert shares(whole[kind])["PASS"] == 1


def test_the_plan_says_which_rows_cannot_see():
    plan = plan_of(Kind("default", False, True))
    assert {label for label, one in plan.items() if one.blind} == {"IFEval", "GSM8K"}
    assert plan["GSM8K"].allowed == pytest.approx(0.45) and plan["GSM8K"].sees > 0.9
    stricter = plan_of(Kind("max_drop 1", False, True))
    assert {"PIQA", "ARC", "BBH"} <= {label for label, one in stricter.items() if one.blind}


def test_an_early_gate_states_a_larger_drop_for_each_evidence_that_may_pass_too_soon():
    whole, early, both = (
        plan_of(Kind("default", *one)) for one in ((False, True), (True, False), (True, True))
    )
    assert whole["PIQA"].sees < early["PIQA"].sees < both["PIQA"].sees
    assert early["BBH"].sees == both["BBH"].sees  # a reference answer's likelihood never passes a row early
