"""Is B better than A? Row by row and task by task, on the docs that both runs answered."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import require_place
from evals.commands.tolerance import add_arguments as add_tolerance
from evals.commands.tolerance import tolerance_from
from evals.core.errors import EXIT_OK, UserError
from reports.margins import Tolerance


@dataclass(frozen=True)
class Options:
    """What `compare` was asked for; `runs`: two or more."""

    runs: tuple[str, ...]
    show_flips: int
    format: str
    output: Path | None
    tolerance: Tolerance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="A, then B and any others of the same suite, each compared with A: run folders, models' folders (their "
        "latest run) or blessed baselines",
    )
    parser.add_argument(
        "--show-flips",
        type=int,
        default=0,
        metavar="N",
        help="show up to N docs a task whose score changed, worse and better ones",
    )
    parser.add_argument("--format", choices=("md", "json"), default="md", help="default: md")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    add_tolerance(parser)


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(tuple(args.runs), args.show_flips, args.format, args.output, tolerance_from(args))
    if len(options.runs) < 2:
        raise UserError("compare needs two runs or more: A, and what is to be compared with it")
    require_place("--output", options.output)
    if options.show_flips < 0:
        raise UserError("--show-flips needs a number of docs, zero or more")
    return options


def main(args: argparse.Namespace) -> int:
    """Prints the comparison of the first run with each of the others."""
    options = options_from(args)
    from reports.compare import as_json, as_markdown
    from reports.files import print_or_write
    from reports.finding import find_run
    from reports.runs import load_run

    runs = [load_run(find_run(place)) for place in options.runs]
    render = as_json if options.format == "json" else as_markdown
    print_or_write(render(runs, options.show_flips, options.tolerance), options.output)
    return EXIT_OK
