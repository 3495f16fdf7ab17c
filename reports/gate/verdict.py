"""May this candidate ship? Each row of a baseline against the candidate, on the same docs, by a policy.

A row is a REGRESSION when it turned worse by more than the policy allows and the loss is statistically real; it is
INCONCLUSIVE when the docs are too few to tell, MISSING when the candidate does not have it, else PASS. Exit codes:
0 pass, 1 regression, 2 wrong usage or unusable input, 4 inconclusive or missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.core import statistics
from evals.core.errors import EXIT_OK, UserError
from evals.core.metric import Metric
from reports import significance
from reports.comparability import CIRCUMSTANCES, SETTINGS, Mismatch, mismatches
from reports.compare import check_suites, on_shared_docs
from reports.gate.policy import Policy, Rule
from reports.runs import RowResult, Run
from reports.significance import Difference

Pair = tuple[Metric, float, float, Difference]
EXIT_REGRESSION, EXIT_INCONCLUSIVE = 1, 4
PASS, REGRESSION, INCONCLUSIVE, MISSING = "PASS", "REGRESSION", "INCONCLUSIVE", "MISSING"


@dataclass(frozen=True)
class RowGate:
    """A row's verdict and why. Values on the shared docs in the row's unit; `p` one-sided, Holm's over the rows.

    `mde`: the true loss that this gate finds with 80 % power, as one of so many rows.
    """

    label: str
    rule: Rule
    verdict: str
    reason: str
    metric: Metric | None = None
    baseline: float | None = None
    candidate: float | None = None
    difference: Difference | None = None
    p: float | None = None
    mde: float | None = None


@dataclass(frozen=True)
class GateResult:
    """All rows, what sets the runs apart (accepted by --allow, or a mere circumstance), and the policy."""

    baseline: Run
    candidate: Run
    policy: Policy
    rows: tuple[RowGate, ...]
    mismatches: tuple[Mismatch, ...]

    @property
    def verdict(self) -> str:
        """The gate's verdict: the worst of the rows that count for it."""
        found = {row.verdict for row in self.rows if row.rule.tier != "advisory"}
        if REGRESSION in found:
            return REGRESSION
        if MISSING in found:
            return MISSING
        critical = {row.verdict for row in self.rows if row.rule.tier == "critical"}
        return INCONCLUSIVE if INCONCLUSIVE in critical else PASS

    def exit_code(self, allow_inconclusive: bool = False) -> int:
        """0 pass, 1 regression, 4 inconclusive; a missing row is never a pass."""
        if self.verdict == REGRESSION:
            return EXIT_REGRESSION
        if self.verdict == MISSING or (self.verdict == INCONCLUSIVE and not allow_inconclusive):
            return EXIT_INCONCLUSIVE
        return EXIT_OK


def gate(baseline: Run, candidate: Run, policy: Policy, allowed: Sequence[str] = ()) -> GateResult:
    """The verdict on every row. Raises UserError for runs that cannot be compared (each difference named)."""
    check_suites(baseline, candidate)
    if candidate.log.blessed_from:
        raise UserError(
            f"the candidate '{candidate.folder}' is a blessed baseline, whose scores cannot be computed again: "
            "give the run itself"
        )
    for name in allowed:
        if name not in SETTINGS:
            raise UserError(f"--allow {name}: choose from {', '.join(SETTINGS)}")
    found = mismatches(baseline, candidate)
    refused = [one for one in found if one.code not in (*CIRCUMSTANCES, *allowed)]
    if refused:
        codes = ",".join(one.code for one in refused)
        raise UserError(
            f"baseline and candidate are not comparable: {'; '.join(one.text for one in refused)}; "
            f"measure them alike, or accept it with --allow {codes}"
        )
    rows = _rows(baseline, candidate, policy, "prompts" in allowed)
    if not rows:
        raise UserError(f"nothing to gate: '{baseline.folder}' has no row with a value")
    return GateResult(baseline, candidate, policy, tuple(rows), tuple(found))


def _rows(baseline: Run, candidate: Run, policy: Policy, any_prompt: bool) -> list[RowGate]:
    """The rows that the baseline has measured, and those that the policy names for this suite."""
    named = [row.label for row in baseline.card.rows if row.label in policy.rows]
    measured = [row.label for row in baseline.rows if row.value is not None]
    labels = list(dict.fromkeys([*measured, *named]))
    pairs: dict[str, Pair] = {}
    for label in labels:
        one, two = baseline.row(label), candidate.row(label)
        if one is not None and two is not None and _alike(one, two):
            pair = on_shared_docs(baseline, candidate, one, one.tasks, any_prompt)
            if pair is not None:
                pairs[label] = (one.metric, *pair)
    judged = judge(pairs, policy)
    return [judged.get(label) or _missing(baseline, candidate, label, policy) for label in labels]


def _alike(one: RowResult, two: RowResult) -> bool:
    return (
        None not in (one.value, two.value) and one.metric == two.metric and set(one.tasks) == set(two.tasks)
    )


def judge(pairs: Mapping[str, Pair], policy: Policy) -> dict[str, RowGate]:
    """The verdicts on rows of which (metric, baseline, candidate, difference) on the shared docs are known."""
    adjusted = significance.holm([pair[3].p_worse for pair in pairs.values()])
    return {
        label: _judge(label, policy.rule(label), *pair, p, len(pairs))
        for (label, pair), p in zip(pairs.items(), adjusted, strict=True)
    }


def _judge(
    label: str,
    rule: Rule,
    metric: Metric,
    before: float,
    after: float,
    difference: Difference,
    p: float,
    rows: int,
) -> RowGate:
    loss, allowed = metric.loss(before, after), rule.allowed(metric, before)
    digits = shown_digits(metric)
    fell, fall = ("dropped", "drop") if metric.higher_is_better else ("rose", "rise")
    alpha = rule.alpha / rows  # Holm's first step: what a single row's loss has to pass
    noise = statistics.quantile(1 - alpha) * difference.stderr
    mde = significance.detectable(difference, metric.reach, alpha, allowed)
    too_large, real = loss > allowed + 1e-9, p < rule.alpha
    if too_large and real:
        verdict, reason = REGRESSION, f"{fell} by {loss:.{digits}f}, allowed are {allowed:.{digits}f}"
    elif difference.n < rule.min_n:
        verdict, reason = INCONCLUSIVE, f"{difference.n} docs, the policy asks for {rule.min_n}"
    elif too_large:
        verdict, reason = (
            INCONCLUSIVE,
            f"{fell} by {loss:.{digits}f}, more than {allowed:.{digits}f}, but that may be chance",
        )
    elif difference.changed == 0:
        verdict, reason = PASS, "no doc's score changed"
    elif noise <= allowed or loss + noise <= allowed:
        verdict, reason = PASS, f"no {fall} of more than {allowed:.{digits}f}"
    else:
        verdict, reason = INCONCLUSIVE, f"{difference.n} docs cannot show a {fall} of {allowed:.{digits}f}"
    return RowGate(label, rule, verdict, reason, metric, before, after, difference, p, mde)


def shown_digits(metric: Metric) -> int:
    """Decimals of a gate's numbers, at least two: it is about small changes."""
    return max(2, metric.digits)


def _missing(baseline: Run, candidate: Run, label: str, policy: Policy) -> RowGate:
    return RowGate(label, policy.rule(label), MISSING, _why_missing(baseline, candidate, label))


def _why_missing(baseline: Run, candidate: Run, label: str) -> str:
    for name, run in (("baseline", baseline), ("candidate", candidate)):
        row = run.row(label)
        if row is None:
            return f"the {name} does not have this row"
        if row.value is None:
            return (
                f"the {name} has no value: {'; '.join(note.text for note in row.notes) or 'no reason given'}"
            )
    return "the runs do not share its tasks, metric and docs"
