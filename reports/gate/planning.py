"""What each row of a gate can show, known from the baseline alone: said before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.core import statistics
from evals.core.errors import UserError
from evals.core.metric import METRICS, Metric
from evals.core.runlog import NoiseLog
from evals.core.statistics import Array, quantile
from reports import significance
from reports.gate.gold import has_gold
from reports.gate.policy import Policy, Rule
from reports.runs import RowResult, Run
from reports.significance import MEAN, Difference, Noise

CAUTION = 2.0
"""A candidate is taken to differ from the baseline by so many times the variance of two right implementations
(Metric.agreement): about one doc in ten of a likelihood row flips, and one in four of a generated one."""
OWN_WEIGHT = 0.8
"""The part of a row's alpha that accuracy on all docs has, where there are other tests as well."""
TOO_SOON = 0.05
"""The part of beta that an early gate spends on drops whose first docs look unchanged, for each evidence that may say
so: about a point of power at a beta of 0.2 (measured: tests/tools/README.md)."""
NO_NOISE = NoiseLog(difference=0.0, spread=0.0)
"""Of a row of which no equivalent runs tell how far they differ."""
MEAN_METRIC = Metric("mean_of_rows", "mean of the rows in percent", binary=False)


@dataclass(frozen=True)
class Planned:
    """A row before it is measured, in its shown unit. `docs` of the baseline; `expected`: how a difference will vary.

    `allowed`: what it may lose. `tests`: rows that share the gate's alpha. `evidence`: what there is of what the rule
    asks for; `early`: judged before all docs are measured.
    """

    label: str
    metric: Metric
    rule: Rule
    value: float
    docs: int
    expected: Noise
    allowed: float
    alpha: float = 0.05
    beta: float = 0.2
    tests: int = 1
    evidence: str = "accuracy"
    early: bool = False

    @property
    def scored(self) -> bool:
        """Whether choices are scored, which is cheaper than answers that are generated."""
        return "logprobs" in METRICS.get(self.metric.column, self.metric).inputs

    @property
    def counts(self) -> bool:
        """Whether a regression of it stops the gate."""
        return self.rule.tier != "advisory"

    @property
    def finer(self) -> bool:
        """Whether gold answers count."""
        return self.evidence != "accuracy"

    @property
    def own(self) -> bool:
        """Whether accuracy counts."""
        return self.evidence != "logprob"

    @property
    def accuses(self) -> bool:
        """Whether gold answers decide sooner than accuracy. A choice is likelier than the others or not; but a text may
        be less likely and answers as right as before, or the other way round: beside accuracy, it only settles what
        this leaves undecided in the end.
        """
        return self.finer and (self.scored or not self.own)

    @property
    def averaged(self) -> bool:
        """Whether it is a part of the mean of all rows."""
        return self.label != MEAN and self.metric.in_percent and self.counts and self.own

    @property
    def weight(self) -> float:
        """The part of the row's alpha that accuracy on all docs has."""
        return (OWN_WEIGHT if self.accuses or self.early else 1.0) if self.own else 0.0

    @property
    def rest(self) -> float:
        """The part that each of its other tests has."""
        return (1 - self.weight) / max(1, self.accuses + self.early)

    @property
    def level(self) -> float:
        """The p at which Holm's first step takes a loss on all docs for real."""
        return self.alpha * (self.weight or self.rest) / max(1, self.tests)

    def noise(self, stderr: float) -> float:
        """The largest loss that may be chance: as many standard errors as `level` asks for."""
        return quantile(1 - self.level) * stderr

    def detectable(self, difference: Difference | Noise) -> float:
        """The true loss of accuracy that the gate finds with power 1 - beta; infinite where accuracy does not count."""
        if not self.own:
            return math.inf
        too_soon = TOO_SOON * self.early * (self.own + self.accuses)
        power = 1 - self.beta * (1 - too_soon)
        return significance.detectable(difference, self.metric.reach, self.level, self.allowed, power)

    @property
    def sees(self) -> float:
        """The true loss that it is expected to find with power 1 - beta."""
        return self.detectable(self.expected)

    @property
    def blind(self) -> bool:
        """Whether, by construction, a loss of just more than allowed would pass for chance; not if the policy says
        that the row is critical whatever it can show.
        """
        if self.rule.tier is not None or self.allowed == 0:
            return False
        return self.docs < self.rule.min_n or (self.own and self.noise(self.expected.stderr) > self.allowed)

    @property
    def tier(self) -> str:
        """What its verdict can do to the gate's: the policy's word, else by what it can show."""
        return self.rule.tier or ("supporting" if self.blind or self.label == MEAN else "critical")

    def shown(self, value: float) -> str:
        """A value of the row with at least two decimals: a gate is about small changes."""
        return f"{value:.{shown_digits(self.metric)}f}"


def shown_digits(metric: Metric) -> int:
    """Decimals of a gate's numbers."""
    return max(2, metric.digits)


def plan_rows(baseline: Run, policy: Policy, candidate: Run | None = None) -> dict[str, Planned]:
    """Every row of the baseline with a value, and the mean of those in percent; without a candidate, for an early gate.

    Raises UserError if there is no row, or none has the evidence that the policy asks for.
    """
    plan = {
        row.label: _planned(baseline, row, row.value, policy, candidate)
        for row in baseline.rows
        if row.value is not None
    }
    if not plan:
        raise UserError(f"nothing to gate: '{baseline.folder}' has no row with a value")
    if policy.defaults.evidence == "logprob" and not any(one.finer for one in plan.values()):
        raise UserError(
            "evidence 'logprob': no row of both runs has gold answers' log-probabilities (generated rows have them "
            "after 'run --references'): take accuracy"
        )
    return complete(plan, policy, baseline.log.noise.get(MEAN, NO_NOISE).difference)


def _planned(baseline: Run, row: RowResult, value: float, policy: Policy, candidate: Run | None) -> Planned:
    other = row if candidate is None else candidate.row(row.label)
    gold = has_gold(baseline, row) and other is not None and has_gold(candidate or baseline, other)
    rule, known = policy.rule(row.label), baseline.log.noise.get(row.label, NO_NOISE)
    strata = statistics.row_strata(row.metric, baseline.samples(row.tasks))
    assert strata is not None
    noise = expected_noise(row.metric, *strata)
    return Planned(
        row.label,
        row.metric,
        rule,
        value,
        row.n,
        expected=replace(noise, spread=max(noise.spread, known.spread)),
        allowed=max(rule.allowed(row.metric, value), known.difference),
        evidence=rule.evidence if gold else "accuracy",
        early=candidate is None,
    )


def complete(plan: Mapping[str, Planned], policy: Policy, floor: float = 0.0) -> dict[str, Planned]:
    """The plan with the mean of its rows, all sharing the policy's alpha; `floor`: what the mean may lose at least."""
    plan = dict(plan)
    parts = [one for one in plan.values() if one.averaged]
    if len(parts) > 1:
        plan[MEAN] = _mean(parts, policy, floor)
    tests = sum(one.counts for one in plan.values())
    return {
        label: replace(one, alpha=policy.alpha, beta=policy.beta, tests=tests) for label, one in plan.items()
    }


def _mean(parts: Sequence[Planned], policy: Policy, floor: float) -> Planned:
    value, k = sum(one.value for one in parts) / len(parts), len(parts)
    rule, allowed = policy.rule(MEAN), sum(one.allowed for one in parts) / k / 2
    if MEAN in policy.rows:
        allowed = rule.allowed(MEAN_METRIC, value)
    spread, share = (sum(getattr(one.expected, name) for one in parts) / k**2 for name in ("spread", "share"))
    docs = sum(one.docs for one in parts)
    return Planned(MEAN, MEAN_METRIC, rule, value, docs, Noise(spread, share), max(allowed, floor))


def expected_noise(metric: Metric, scores: Sequence[Array], weights: Sequence[float]) -> Noise:
    """How a row with these scores of the baseline is expected to differ in an unchanged candidate."""
    changes = 2 * (1 - metric.agreement) * CAUTION
    spread = sum(w * w * changes * np.var(one) / len(one) for one, w in zip(scores, weights, strict=True))
    share = sum(w * w / len(one) for one, w in zip(scores, weights, strict=True))
    return Noise(float(spread) * metric.scale**2, share)
