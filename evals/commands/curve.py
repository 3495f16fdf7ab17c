"""A training's curve: how each row grows over checkpoints, as a table and as a picture.

A checkpoint's step is the number in its model's name ("step-1000", "checkpoint-500", "model-step1000-tokens2B");
what is left of the name tells trainings apart. A model without a number is a level line to compare with.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from evals.core.errors import EXIT_OK


@dataclass(frozen=True)
class Options:
    """What `curve` was asked for; None: left out."""

    runs: tuple[str, ...]
    plot: Path | None = None
    output: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `curve`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders, or folders that hold the runs of checkpoints",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the curves: .svg or .png")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the tables there instead of printing"
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options."""
    return Options(tuple(args.runs), args.plot, args.output)


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

    curves = find_curves([load_run(folder) for folder in find_each(options.runs)])
    print_or_write("\n".join(markdown(table) for table in tables(curves)), options.output)
    if options.plot:
        draw(curves, options.plot)
    return EXIT_OK
