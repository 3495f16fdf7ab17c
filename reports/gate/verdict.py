"""May this candidate ship? Each row of a baseline against the candidate, on the same docs, by a policy.

A row is a REGRESSION when it turned worse by more than the policy allows and the loss is real; PASS when it did not
and its docs could have shown it; INCONCLUSIVE when they could not; MISSING when the candidate does not have it. An
early gate (stages.py) leaves a row OPEN until one of these is sure. One `alpha` bounds a false REGRESSION anywhere
(Holm 1979 over the rows that count and the tests of each), and each row says beforehand which true loss it finds with
power 1 - `beta`. Exit codes: 0 pass, 1 regression, 2 unusable input, 4 inconclusive or missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evals.core.errors import EXIT_OK
from evals.core.metric import Metric
from evals.core.statistics import upper_tail
from reports import significance
from reports.comparability import Mismatch
from reports.gate.betting import Drawn
from reports.gate.evidence import Evidence
from reports.gate.planning import Planned
from reports.gate.policy import Policy
from reports.runs import Run
from reports.significance import MEAN

EXIT_REGRESSION, EXIT_INCONCLUSIVE = 1, 4
PASS, REGRESSION, INCONCLUSIVE, MISSING = "PASS", "REGRESSION", "INCONCLUSIVE", "MISSING"
OPEN = "NOT COMPUTED"
WAY_OUT = "set max_drop for this row, make it supporting, or pass --allow-inconclusive"
CERTAIN = 20.0
"""A stake of so much is sure what the whole row would show: wrong in one of so many cases."""
UNCHANGED = 0.65
"""Soft accuracy that lost less than this part of what is allowed says that accuracy did not lose more: of damaged
copies it lost about 0.6 to 0.9 times as much (tests/tools/README.md)."""


@dataclass(frozen=True)
class RowGate:
    """A row's verdict and why. `p` one-sided, corrected over the whole gate."""

    label: str
    planned: Planned | None
    verdict: str
    reason: str
    evidence: Evidence | None = None
    p: float | None = None

    @property
    def tier(self) -> str:
        """What its verdict can do to the gate's."""
        return "critical" if self.planned is None else self.planned.tier

    @property
    def counts(self) -> bool:
        """Whether a regression of it stops the gate."""
        return self.planned is None or self.planned.counts


@dataclass(frozen=True)
class GateResult:
    """All rows, what sets the runs apart (accepted by --allow, or a mere circumstance), and the policy."""

    baseline: Run
    candidate: Run
    policy: Policy
    rows: tuple[RowGate, ...]
    mismatches: tuple[Mismatch, ...]
    early: bool = False

    @property
    def verdict(self) -> str:
        """The gate's verdict: the worst of the rows that count for it. It passes only if some row that counts does."""
        found = {row.verdict for row in self.rows if row.counts}
        for verdict in (REGRESSION, MISSING):
            if verdict in found:
                return verdict
        undecided = any(row.verdict == INCONCLUSIVE and row.tier == "critical" for row in self.rows)
        return INCONCLUSIVE if undecided or PASS not in found else PASS

    def exit_code(self, allow_inconclusive: bool = False) -> int:
        """0 pass, 1 regression, 4 inconclusive; a missing row is never a pass."""
        if self.verdict == REGRESSION:
            return EXIT_REGRESSION
        if self.verdict == MISSING or (self.verdict == INCONCLUSIVE and not allow_inconclusive):
            return EXIT_INCONCLUSIVE
        return EXIT_OK


def judge(plan: Mapping[str, Planned], found: Mapping[str, Evidence]) -> dict[str, RowGate]:
    """The verdicts on the planned rows of which the evidence is there; the mean of all rows is made from the others."""
    evidence = dict(found)
    parts = [found.get(label) for label, one in plan.items() if one.averaged]
    whole = [one for one in parts if one is not None and one.whole]
    if MEAN in plan and len(whole) == len(parts):
        evidence[MEAN] = _mean(whole, plan[MEAN].metric)
    p_values = _corrected(plan, evidence)
    rows = {}
    for label, planned in plan.items():
        if label in evidence:
            one, p = evidence[label], p_values[label]
            judged = _early if not one.whole else _whole if planned.own else _by_gold
            rows[label] = RowGate(label, planned, *judged(planned, one, p), one, p)
    return rows


def _mean(parts: Sequence[Evidence], metric: Metric) -> Evidence:
    """The mean of all rows, each with all its docs, as evidence of its own."""
    mean = significance.mean_of_rows((one.metric, one.difference.estimate) for one in parts)
    assert mean is not None
    before, k = sum(one.before for one in parts) / len(parts), len(parts) ** 2
    difference = replace(
        significance.of_estimate(mean, sum(one.difference.changed for one in parts)),
        spread=sum(one.difference.spread for one in parts) / k,
        share=sum(one.difference.share for one in parts) / k,
    )
    return Evidence(metric, before, before + mean.value, difference)


def _corrected(plan: Mapping[str, Planned], evidence: Mapping[str, Evidence]) -> dict[str, float]:
    """Each row's p over its tests (Bonferroni by their weights) and over the rows that count (Holm).

    A row that is still to be measured counts with a p of one.
    """
    p_values = {label: _p(one, evidence[label]) if label in evidence else 1.0 for label, one in plan.items()}
    counting = [label for label, one in plan.items() if one.counts]
    adjusted = significance.holm([p_values[label] for label in counting])
    return p_values | dict(zip(counting, adjusted, strict=True))


def _p(planned: Planned, one: Evidence) -> float:
    """A row's p against "nothing is lost": the smallest of its tests' after their weights."""
    tests = [one.difference.p_worse / planned.weight] if one.whole and planned.own else []
    if one.soft is not None and one.whole and one.soft.stderr is not None and planned.accuses:
        soft = upper_tail(-one.soft.value / one.soft.stderr) if one.soft.stderr else 1.0
        tests.append(soft / planned.rest)
    stakes = [drawn.worse for drawn, *_ in _drawn(planned, one)]
    if stakes:
        tests.append(len(stakes) / sum(stakes) / planned.rest)
    return min([1.0, *tests])


def _drawn(planned: Planned, one: Evidence) -> list[tuple[Drawn, float, str]]:
    """What the first docs show of a row: as drawn, the loss below which it is unchanged, and what is said of it."""
    found = []
    if one.drawn is not None and planned.own:
        found.append((one.drawn, planned.allowed, ""))
    if one.soft_drawn is not None and planned.accuses:
        found.append((one.soft_drawn, UNCHANGED * planned.allowed, _soft_words(one)))
    return found


def progress(planned: Planned, one: Evidence) -> float:
    """How far a row's first docs are on the way to a sure verdict: 1 is there."""
    found = _drawn(planned, one)
    stakes = [max(docs.below(limit), docs.above(planned.allowed)) for docs, limit, _ in found]
    return math.log(max([1.0, *stakes])) / math.log(CERTAIN)


def _early(planned: Planned, one: Evidence, p: float) -> tuple[str, str]:
    """The verdict on a row's first docs, where it is sure what all of them would show."""
    allowed, drawn = planned.allowed, _drawn(planned, one)
    loss = one.loss if planned.own or one.soft is None else -one.soft.value
    if p < planned.alpha and loss > 0:
        for docs, _, soft in drawn:
            if docs.above(allowed) >= CERTAIN:
                words = f"damaged: {soft}, allowed {planned.shown(allowed)}" if soft else ""
                return REGRESSION, words or _words(planned, one, p)
    if one.difference.n >= planned.rule.min_n and loss <= allowed:
        for docs, limit, soft in drawn:
            if docs.below(limit) >= CERTAIN:
                return PASS, f"unchanged: {soft}" if soft else _words(planned, one, p)
    if planned.blind:
        return INCONCLUSIVE, _cannot_see(planned)
    return OPEN, "not sure yet"


def _whole(planned: Planned, one: Evidence, p: float) -> tuple[str, str]:
    """The verdict on a row whose docs are all measured."""
    loss, allowed, difference = one.loss, planned.allowed, one.difference
    noise = planned.noise(difference.stderr)
    too_large = loss > allowed + 1e-9
    if too_large and p < planned.alpha:
        return REGRESSION, _words(planned, one, p)
    if allowed == 0:
        return PASS, f"no real drop ({shown_p(p)}); it shows drops from {planned.shown(planned.sees)} on"
    if difference.n < planned.rule.min_n:
        return INCONCLUSIVE, _few(planned, one)
    if not too_large and difference.changed == 0:
        return PASS, "no doc's score changed"
    if not too_large and (loss + noise <= allowed or (noise <= allowed and not planned.blind)):
        return PASS, _words(planned, one, p)
    if _unchanged(planned, one) and (planned.accuses or not too_large):
        return PASS, f"unchanged: {_soft_words(one)}; the accuracy's change may be chance"
    if planned.blind:
        return INCONCLUSIVE, _cannot_see(planned)
    if too_large:
        return INCONCLUSIVE, f"{_words(planned, one, p)}, but that may be chance: {WAY_OUT}"
    sees = planned.shown(planned.detectable(difference))
    return INCONCLUSIVE, f"its docs turned out to show drops from {sees} on: {WAY_OUT}"


def _by_gold(planned: Planned, one: Evidence, p: float) -> tuple[str, str]:
    """The same by gold answers alone."""
    assert one.soft is not None
    if -one.soft.value > planned.allowed and p < planned.alpha:
        return REGRESSION, f"damaged: {_soft_words(one)}, allowed {planned.shown(planned.allowed)}"
    if one.difference.n < planned.rule.min_n:
        return INCONCLUSIVE, _few(planned, one)
    if _unchanged(planned, one) or (planned.allowed == 0 and one.loss < abs(one.before)):
        return PASS, f"unchanged: {_soft_words(one)}"
    return INCONCLUSIVE, f"{_soft_words(one)}: neither damaged nor unchanged for sure (take accuracy as well)"


def _unchanged(planned: Planned, one: Evidence) -> bool:
    """Whether soft accuracy rules out a loss of what is allowed; of a row that lost everything, nothing does."""
    if not planned.finer or one.soft is None or one.soft.stderr is None or one.loss >= abs(one.before):
        return False
    return -one.soft.value + planned.noise(one.soft.stderr) <= UNCHANGED * planned.allowed


# --- words ----------------------------------------------------------------------------------------


def shown_p(p: float) -> str:
    """A p as people write it."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def _words(planned: Planned, one: Evidence, p: float) -> str:
    fell = "dropped" if one.metric.higher_is_better else "rose"
    if one.loss <= 0:
        return "not worse"
    return f"{fell} by {planned.shown(one.loss)} ({shown_p(p)}), allowed {planned.shown(planned.allowed)}"


def _soft_words(one: Evidence) -> str:
    assert one.soft is not None and one.gold is not None
    return f"{one.gold.words} (soft accuracy {one.soft.value:+.2f})"


def _few(planned: Planned, one: Evidence) -> str:
    return f"{one.difference.n} docs, the policy asks for {planned.rule.min_n}"


def _cannot_see(planned: Planned) -> str:
    sees, allowed = planned.shown(planned.sees), planned.shown(planned.allowed)
    return (
        f"{planned.docs:,} docs show drops from {sees} on, allowed {allowed}: a smaller one does not stop the gate "
        "(set max_drop and max_relative_drop for this row, or make it critical)"
    )
