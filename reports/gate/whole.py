"""The gate on two whole runs, and what any gate refuses: runs that are not the same measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.core.errors import UserError
from reports.comparability import CIRCUMSTANCES, SETTINGS, Mismatch, mismatches
from reports.compare import check_suites
from reports.gate.evidence import row_evidence
from reports.gate.planning import Planned, plan_rows
from reports.gate.policy import Policy
from reports.gate.verdict import MISSING, OPEN, GateResult, RowGate, judge
from reports.runs import Run
from reports.significance import MEAN


def gate(baseline: Run, candidate: Run, policy: Policy, allowed: Sequence[str] = ()) -> GateResult:
    """The verdict on every row. Raises UserError for runs that cannot be compared (each difference named)."""
    found = check(baseline, candidate, allowed)
    plan = plan_rows(baseline, policy, candidate)
    evidence = {
        label: one
        for label, planned in plan.items()
        if (one := row_evidence(baseline, candidate, label, "prompts" in allowed, planned.finer)) is not None
    }
    return result_of(baseline, candidate, policy, plan, judge(plan, evidence), found)


def result_of(
    baseline: Run,
    candidate: Run,
    policy: Policy,
    plan: Mapping[str, Planned],
    rows: Mapping[str, RowGate],
    found: Sequence[Mismatch],
    early: bool = False,
) -> GateResult:
    """The gate's result: the rows of the plan, and those that the policy names; what was not judged is missing."""
    named = [row.label for row in baseline.card.rows if row.label in policy.rows]
    labels = list(dict.fromkeys([*(label for label in plan if label != MEAN), *named]))
    judged = [rows.get(label) or _missing(baseline, candidate, label) for label in labels]
    if MEAN in plan:
        judged.append(rows.get(MEAN) or RowGate(MEAN, plan[MEAN], OPEN, "needs all docs of all rows"))
    return GateResult(baseline, candidate, policy, tuple(judged), tuple(found), early)


def check(baseline: Run, candidate: Run, allowed: Sequence[str], early: bool = False) -> list[Mismatch]:
    """What sets the runs apart, all of it allowed or harmless. Raises UserError for the rest.

    An `early` candidate has fewer docs. Another dtype is allowed where the baseline was blessed with one.
    """
    check_suites(baseline, candidate)
    if candidate.log.blessed_from:
        raise UserError(
            f"the candidate '{candidate.folder}' is a blessed baseline, whose scores cannot be computed again: "
            "give the run itself"
        )
    for name in allowed:
        if name not in SETTINGS:
            raise UserError(f"--allow {name}: choose from {', '.join(SETTINGS)}")
    found = [one for one in mismatches(baseline, candidate) if not (early and one.code in ("limit", "docs"))]
    harmless = [*CIRCUMSTANCES, *allowed]
    if candidate.model.dtype in baseline.log.equivalent:
        harmless.append("dtype")
    refused = [one for one in found if one.code not in harmless]
    if refused:
        codes = ",".join(one.code for one in refused)
        raise UserError(
            f"baseline and candidate are not comparable: {'; '.join(one.text for one in refused)}; "
            f"measure them alike, or accept it with --allow {codes}"
        )
    return found


def _missing(baseline: Run, candidate: Run, label: str) -> RowGate:
    """A row that must be there and is not, and why."""
    reason = "the runs do not share its tasks, metric and docs"
    for name, run in (("candidate", candidate), ("baseline", baseline)):
        row = run.row(label)
        if row is None:
            reason = f"the {name} does not have this row"
        elif row.value is None:
            notes = "; ".join(note.text for note in row.notes)
            reason = f"the {name} has no value: {notes or 'no reason given'}"
    return RowGate(label, None, MISSING, reason)
