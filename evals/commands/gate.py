"""May this candidate ship? Each row of a baseline against the candidate, on the same docs, by a policy.

A row is a REGRESSION when it dropped by more than the policy allows and the drop is statistically real; it is
INCONCLUSIVE when the docs are too few to tell, MISSING when the candidate does not have it, else PASS. The candidate is
a finished run, or a model that is measured here, each row only until its verdict is sure. Exit codes: 0 pass,
1 regression, 2 wrong usage or unusable input, 4 inconclusive or missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evals.commands.options import Use, refuse_unused, split_names
from evals.commands.tolerance import add_arguments as add_tolerance
from evals.commands.tolerance import tolerance_from
from evals.core.errors import UserError

if TYPE_CHECKING:
    from reports.gate.policy import Policy
    from reports.gate.verdict import GateResult
    from reports.runs import Run


@dataclass(frozen=True)
class Measured:
    """A candidate that is measured here: which model, on which data, and how.

    `dtype`: None is the baseline's; `device`: None is the best there is.
    """

    model: str
    revision: str | None
    data: str
    device: str | None
    dtype: str | None
    output: Path
    offline: bool


@dataclass(frozen=True)
class Options:
    """What `gate` was asked for; None: left out. `baselines`: where the name `baseline` is looked up.

    One of `candidate` and `measured` is there. `changed`: what the policy's defaults give way to. `flips`: docs a task
    whose texts are shown.
    """

    baseline: str
    candidate: str | None
    measured: Measured | None
    policy: Path | None
    allow: tuple[str, ...]
    allow_inconclusive: bool
    baselines: Path | None
    junit: Path | None
    summary: Path | None
    format: str
    flips: int
    changed: Mapping[str, float | str | None]


_HERE = "is about a candidate that is measured here (--model)"
USES: tuple[Use[Options], ...] = tuple(
    Use(f"--{name}", lambda o: o.measured, _HERE)
    for name in ("revision", "data", "device", "dtype", "output-dir", "offline")
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `gate`."""
    parser.epilog = (
        "policy file (TOML; every key with its default: reports/gate/policy.example.toml):\n"
        "  [defaults]        alpha, beta (whole gate), margin, max_drop, max_relative_drop, min_n, tier, evidence\n"
        '  [rows."LABEL"]    the same for one row, but alpha and beta\n'
        "a row finds a drop of the size that is printed before the gate starts with power 1 - beta"
    )
    what = parser.add_argument_group("what to judge")
    what.add_argument("--baseline", required=True, metavar="RUN|NAME",
                      help="a run or a model's folder, or a blessed baseline")  # fmt: skip
    what.add_argument("--candidate", metavar="RUN", help="the run to judge, or a model's folder")
    what.add_argument("--model", metavar="NAME",
                      help="instead: a name, hub id, folder or .gguf file, measured as far as it takes")  # fmt: skip
    what.add_argument(
        "--baselines", type=Path, metavar="DIR", help="where NAME is looked up (results/baselines)"
    )
    _add_measuring(parser)
    _add_judging(parser)
    shown = parser.add_argument_group("what to show")
    shown.add_argument("--format", choices=("text", "json"), default="text", help="of what is printed (text)")
    shown.add_argument(
        "--show-flips", type=int, default=0, metavar="N", help="texts of N changed docs of each task"
    )
    shown.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML")
    shown.add_argument("--summary", type=Path, metavar="FILE", help="write the markdown summary")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to measure --model")
    how.add_argument("--revision", help="the hub revision of the model")
    how.add_argument("--data", metavar="hub|smoke|DIR", help="where the benchmarks are (default: hub)")
    how.add_argument("--device", help="cpu, cuda:1, mps (default: the best there is)")
    how.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the baseline's")
    how.add_argument("--output-dir", metavar="DIR", help="default: results")
    how.add_argument("--offline", action="store_true", help="no network at all")


def _add_judging(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to judge")
    how.add_argument("--policy", type=Path, metavar="FILE",
                     help="TOML, see below (default: [tool.smol-evals.gate] of pyproject.toml)")  # fmt: skip
    how.add_argument(
        "--allow", action="append", default=[], metavar="WHAT",
        help="accept that the runs differ in data, prompts, docs, limit, variant, chat, dtype or quantization "
        "(may be repeated, or names by comma); the summary shows it",
    )  # fmt: skip
    how.add_argument(
        "--allow-inconclusive", action="store_true", help="exit 0 when the docs are too few to tell"
    )
    how.add_argument("--evidence", choices=("accuracy", "logprob", "both"),
                     help="what verdicts rest on: accuracy, the gold answers' log-probabilities (logprob), or both, "
                     "which is sooner sure (default: both; generated rows: see 'run --references')")  # fmt: skip
    add_tolerance(how)


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    if (args.candidate is None) == (args.model is None):
        raise UserError("give either --candidate RUN, or --model NAME to measure one here")
    options = Options(
        baseline=args.baseline,
        candidate=args.candidate,
        measured=None if args.model is None else _measured(args),
        policy=args.policy,
        allow=split_names("--allow", args.allow, "difference") or (),
        allow_inconclusive=args.allow_inconclusive,
        baselines=args.baselines,
        junit=args.junit,
        summary=args.summary,
        format=args.format,
        flips=max(0, args.show_flips),
        changed=_changed(args),
    )
    refuse_unused(args, options, USES)
    return options


def _measured(args: argparse.Namespace) -> Measured:
    output = Path(args.output_dir or "results")
    return Measured(
        args.model, args.revision, args.data or "hub", args.device, args.dtype, output, args.offline
    )


def _changed(args: argparse.Namespace) -> dict[str, float | str | None]:
    tolerance = tolerance_from(args)
    found: dict[str, float | str | None] = {}
    if args.margin is not None:
        found |= {"margin": tolerance.points, "max_drop": None}
    if args.alpha is not None:
        found["alpha"] = tolerance.alpha
    if args.evidence is not None:
        found["evidence"] = args.evidence
    return found


def main(args: argparse.Namespace) -> int:
    """Prints the verdicts and returns the exit code; what CI reads is written also where nothing could be judged."""
    try:
        return _judge(options_from(args))
    except Exception as error:
        from reports.gate.ci import leave_error

        for line in leave_error(str(error), args.junit, args.summary):
            print(line, file=sys.stderr)
        raise


def _judge(options: Options) -> int:
    from reports.finding import find_run
    from reports.gate.ci import leave
    from reports.gate.output import as_json, flips_text, plain
    from reports.gate.policy import load_policy
    from reports.runs import load_run

    baseline = load_run(find_run(options.baseline, options.baselines))
    policy = load_policy(options.policy, more=[baseline.card], changed=options.changed)
    result = _result(options, baseline, policy)
    code = result.exit_code(options.allow_inconclusive)
    print(as_json(result, code) if options.format == "json" else plain(result, code))
    if options.flips and options.format == "text":
        print(flips_text(result, options.flips))
    lines = leave(result, code, options.junit, options.summary, options.allow_inconclusive, options.flips)
    for line in lines:
        print(line, file=sys.stdout if options.format == "text" else sys.stderr)
    return code


def _result(options: Options, baseline: Run, policy: Policy) -> GateResult:
    from reports.finding import find_run
    from reports.gate.output import plan_text
    from reports.gate.planning import plan_rows
    from reports.gate.whole import gate
    from reports.runs import load_run

    candidate = None if options.candidate is None else load_run(find_run(options.candidate))
    plan = plan_rows(baseline, policy, candidate)
    print(plan_text(plan, policy), file=sys.stdout if options.format == "text" else sys.stderr, flush=True)
    if candidate is not None:
        return gate(baseline, candidate, policy, options.allow)
    from evals.commands.early_gate import early_gate

    assert options.measured is not None
    return early_gate(baseline, options.measured, plan, policy, options.allow)
