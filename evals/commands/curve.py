"""A training's curve: how each row grows over checkpoints, as a table and as a picture.

A checkpoint's step is the number in its model's name ("step-1000", "checkpoint-500", "model-step1000-tokens2B");
what is left of the name tells trainings apart. A model without a number is a level line to compare with.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import require_place, split_names
from evals.core.errors import EXIT_OK, UserError


@dataclass(frozen=True)
class Options:
    """What `curve` was asked for; None: left out."""

    runs: tuple[str, ...]
    plot: Path | None = None
    output: Path | None = None
    steps: tuple[int, ...] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `curve`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders, or folders that hold the runs of checkpoints",
    )
    parser.add_argument(
        "--steps",
        metavar="N,N,…",
        help="the runs' steps in their order, where their models' names do not say them",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the curves: .svg or .png")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the tables there instead of printing"
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(tuple(args.runs), args.plot, args.output, steps_from(args.steps))
    check(options)
    return options


def check(options: Options) -> None:
    """Raises UserError for a file that cannot be written, before any run is read."""
    from reports.render.pictures import check_format

    require_place("--output", options.output)
    if options.plot:
        check_format(options.plot)


def steps_from(text: str | None) -> tuple[int, ...] | None:
    """The steps that an option names. Raises UserError."""
    names = split_names("--steps", text, "step")
    for name in names or ():
        if not (name.isascii() and name.isdigit()):
            raise UserError(
                f"--steps {text}: '{name[:40]}' is no step; give whole numbers by comma, one a run"
            )
    return None if names is None else tuple(map(int, names))


def main(args: argparse.Namespace) -> int:
    """Prints the tables of all trainings; draws them with --plot. Raises UserError."""
    return show(options_from(args))


def show(options: Options) -> int:
    """Prints or writes the tables, and draws. Raises UserError."""
    from reports.curve import draw, find_curves, tables
    from reports.files import print_or_write
    from reports.finding import find_each
    from reports.render.tables import markdown
    from reports.runs import load_run

    curves = find_curves([load_run(folder) for folder in find_each(options.runs)], options.steps)
    text = "\n".join(markdown(table) for table in tables(curves))
    if options.plot:
        draw(curves, options.plot)
    print_or_write(text, options.output)
    return EXIT_OK
