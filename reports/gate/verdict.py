"""May this candidate ship? Each row of a baseline against the candidate, on the same docs, by a policy.

A row is a REGRESSION when it dropped by more than the policy allows and the drop is statistically real; it is
INCONCLUSIVE when the docs are too few to tell, MISSING when the candidate does not have it, else PASS. Exit codes:
0 pass, 1 regression, 2 wrong usage or unusable input, 4 inconclusive or missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evals.commands.options import split_names
from evals.core.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    from reports.comparability import Mismatch
    from reports.gate.policy import Policy, Rule
    from reports.runs import RowResult, Run
    from reports.significance import Difference

EXIT_REGRESSION, EXIT_INCONCLUSIVE = 1, 4
PASS, REGRESSION, INCONCLUSIVE, MISSING = "PASS", "REGRESSION", "INCONCLUSIVE", "MISSING"


@dataclass(frozen=True)
class RowGate:
    """A row's verdict and why. Values on the shared docs in the row's unit; `p` one-sided, Holm's over the rows.

    `mde`: the true drop that this gate finds with 80 % power, as one of so many rows.
    """

    label: str
    rule: Rule
    verdict: str
    reason: str
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


@dataclass(frozen=True)
class Options:
    """What `gate` was asked for; None: left out. `baselines`: where the name `baseline` is looked up."""

    baseline: str
    candidate: Path
    policy: Path | None
    allow: tuple[str, ...]
    allow_inconclusive: bool
    baselines: Path | None
    junit: Path | None
    summary: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `gate`."""
    parser.add_argument(
        "--baseline", required=True, metavar="RUN|NAME", help="a run folder, or a blessed baseline"
    )
    parser.add_argument(
        "--candidate", required=True, type=Path, metavar="RUN", help="the run folder to judge"
    )
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="TOML (default: [tool.smol-evals.gate] of pyproject.toml)"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="accept that the runs differ in data, prompts, docs, limit, variant, chat, dtype or quantization "
        "(may be repeated, or names by comma); the summary shows it",
    )
    parser.add_argument(
        "--allow-inconclusive", action="store_true", help="exit 0 when the docs are too few to tell"
    )
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="where NAME is looked up (results/baselines)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the markdown summary")


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    return Options(
        baseline=args.baseline,
        candidate=args.candidate,
        policy=args.policy,
        allow=split_names("--allow", args.allow, "difference") or (),
        allow_inconclusive=args.allow_inconclusive,
        baselines=args.baselines,
        junit=args.junit,
        summary=args.summary,
    )


def main(args: argparse.Namespace) -> int:
    """Prints the verdicts and returns the exit code."""
    from reports.gate.bless import find_baseline
    from reports.gate.output import write_outputs
    from reports.gate.policy import load_policy
    from reports.runs import load_run

    options = options_from(args)
    policy = load_policy(options.policy)
    baseline = load_run(find_baseline(options.baseline, options.baselines))
    result = gate(baseline, load_run(options.candidate), policy, options.allow)
    code = result.exit_code(options.allow_inconclusive)
    write_outputs(result, code, options.junit, options.summary)
    return code


def gate(baseline: Run, candidate: Run, policy: Policy, allowed: Sequence[str] = ()) -> GateResult:
    """The verdict on every row. Raises UserError for runs that cannot be compared (each difference named)."""
    from reports.comparability import CIRCUMSTANCES, SETTINGS, mismatches
    from reports.compare import check_suites

    check_suites(baseline, candidate)
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
    from reports import published
    from reports.compare import on_shared_docs

    named = [row.label for row in published.load(baseline.suite).rows if row.label in policy.rows]
    measured = [row.label for row in baseline.rows if row.value is not None]
    labels = list(dict.fromkeys([*measured, *named]))
    pairs = {}
    for label in labels:
        one, two = baseline.row(label), candidate.row(label)
        if one is not None and two is not None and _alike(one, two):
            pair = on_shared_docs(baseline, candidate, one, one.tasks, any_prompt)
            if pair is not None:
                pairs[label] = pair
    judged = judge(pairs, policy)
    return [judged.get(label) or _missing(baseline, candidate, label, policy) for label in labels]


def _alike(one: RowResult, two: RowResult) -> bool:
    return (
        None not in (one.value, two.value) and one.metric == two.metric and set(one.tasks) == set(two.tasks)
    )


def judge(pairs: Mapping[str, tuple[float, float, Difference]], policy: Policy) -> dict[str, RowGate]:
    """The verdicts on rows of which (baseline, candidate, difference) on the shared docs are known."""
    from reports import significance

    adjusted = significance.holm([pair[2].p_drop for pair in pairs.values()])
    return {
        label: _judge(label, policy.rule(label), *pair, p, len(pairs))
        for (label, pair), p in zip(pairs.items(), adjusted, strict=True)
    }


def _judge(
    label: str, rule: Rule, before: float, after: float, difference: Difference, p: float, rows: int
) -> RowGate:
    from evals.core import statistics
    from reports import significance

    drop, allowed = before - after, rule.allowed(before)
    alpha = rule.alpha / rows  # Holm's first step: what a single row's drop has to pass
    noise = statistics.quantile(1 - alpha) * difference.stderr
    mde = significance.detectable_drop(difference.stderr, allowed, alpha)
    too_large, real = drop > allowed + 1e-9, p < rule.alpha
    if too_large and real:
        verdict, reason = REGRESSION, f"dropped by {drop:.2f}, allowed are {allowed:.2f}"
    elif difference.n < rule.min_n:
        verdict, reason = INCONCLUSIVE, f"{difference.n} docs, the policy asks for {rule.min_n}"
    elif too_large:
        verdict, reason = (
            INCONCLUSIVE,
            f"dropped by {drop:.2f}, more than {allowed:.2f}, but that may be chance",
        )
    elif difference.changed == 0:
        verdict, reason = PASS, "no doc's score changed"
    elif noise <= allowed or drop + noise <= allowed:
        verdict, reason = PASS, f"no drop of more than {allowed:.2f}"
    else:
        verdict, reason = INCONCLUSIVE, f"{difference.n} docs cannot show a drop of {allowed:.2f}"
    return RowGate(label, rule, verdict, reason, before, after, difference, p, mde)


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
