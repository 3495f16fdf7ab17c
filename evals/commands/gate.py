"""May this candidate ship? Each row of a baseline against the candidate, on the same docs, by a policy.

A row is a REGRESSION when it dropped by more than the policy allows and the drop is statistically real; it is
INCONCLUSIVE when the docs are too few to tell, MISSING when the candidate does not have it, else PASS. Exit codes:
0 pass, 1 regression, 2 wrong usage or unusable input, 4 inconclusive or missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import split_names
from evals.commands.tolerance import add_arguments as add_tolerance
from evals.commands.tolerance import tolerance_from


@dataclass(frozen=True)
class Options:
    """What `gate` was asked for; None: left out. `baselines`: where the name `baseline` is looked up.

    `changed`: what the policy's defaults give way to.
    """

    baseline: str
    candidate: str
    policy: Path | None
    allow: tuple[str, ...]
    allow_inconclusive: bool
    baselines: Path | None
    junit: Path | None
    summary: Path | None
    changed: Mapping[str, float | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `gate`."""
    parser.add_argument(
        "--baseline",
        required=True,
        metavar="RUN|NAME",
        help="a run or a model's folder, or a blessed baseline",
    )
    parser.add_argument(
        "--candidate", required=True, metavar="RUN", help="the run to judge, or a model's folder"
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
    add_tolerance(parser)


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
        changed=_changed(args),
    )


def _changed(args: argparse.Namespace) -> dict[str, float | None]:
    tolerance = tolerance_from(args)
    found: dict[str, float | None] = {}
    if args.margin is not None:
        found |= {"margin": tolerance.points, "max_drop": None}
    if args.alpha is not None:
        found["alpha"] = tolerance.alpha
    return found


def main(args: argparse.Namespace) -> int:
    """Prints the verdicts and returns the exit code."""
    options = options_from(args)
    from reports.finding import find_run
    from reports.gate.output import write_outputs
    from reports.gate.policy import load_policy
    from reports.gate.verdict import gate
    from reports.runs import load_run

    baseline = load_run(find_run(options.baseline, options.baselines))
    candidate = load_run(find_run(options.candidate))
    policy = load_policy(options.policy, more=[baseline.card], changed=options.changed)
    result = gate(baseline, candidate, policy, options.allow)
    code = result.exit_code(options.allow_inconclusive)
    write_outputs(result, code, options.junit, options.summary)
    return code
