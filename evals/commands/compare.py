"""Is B better than A? Row by row and task by task, on the docs that both runs answered."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from evals.commands.tolerance import add_arguments as add_tolerance
from evals.commands.tolerance import tolerance_from
from evals.core.errors import EXIT_OK, UserError
from reports.margins import Tolerance


@dataclass(frozen=True)
class Options:
    """What `compare` was asked for."""

    first: str
    second: str
    show_flips: int
    format: str
    output: Path | None
    tolerance: Tolerance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument(
        "first", metavar="A", help="a run folder, a model's folder (its latest run), or a blessed baseline"
    )
    parser.add_argument("second", metavar="B", help="another of the same suite")
    parser.add_argument(
        "--show-flips", type=int, default=0, metavar="N", help="show up to N docs a task whose score changed"
    )
    parser.add_argument("--format", choices=("md", "json"), default="md", help="default: md")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    add_tolerance(parser)


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(
        args.first, args.second, args.show_flips, args.format, args.output, tolerance_from(args)
    )
    if options.show_flips < 0:
        raise UserError("--show-flips needs a number of docs, zero or more")
    return options


def main(args: argparse.Namespace) -> int:
    """Prints the comparison of two runs."""
    options = options_from(args)
    from reports.compare import as_json, as_markdown
    from reports.files import print_or_write
    from reports.finding import find_run
    from reports.runs import load_run

    first, second = load_run(find_run(options.first)), load_run(find_run(options.second))
    render = as_json if options.format == "json" else as_markdown
    print_or_write(render(first, second, options.show_flips, options.tolerance), options.output)
    return EXIT_OK
