"""Prints a run's tables again: measured columns beside published ones, with intervals and verdicts."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from evals.commands import curve
from evals.commands.options import Use, refuse_unused, require_place, split_names
from evals.commands.tolerance import add_arguments as add_tolerance
from evals.commands.tolerance import tolerance_from
from evals.core.errors import EXIT_OK
from reports.margins import Tolerance

DATA = ("csv", "json")
FORMATS = ("md", *DATA, "latex", "html")


@dataclass(frozen=True)
class Options:
    """What `report` was asked for; None: left out."""

    runs: tuple[str, ...]
    columns: tuple[str, ...] | None
    format: str
    output: Path | None
    plot: Path | None
    curve: bool
    model_index: Path | None
    tolerance: Tolerance
    plain: bool = False
    steps: tuple[int, ...] | None = None


_TABLES = "is about the card's tables, not about --curve"
USES: tuple[Use[Options], ...] = (
    Use("--columns", lambda o: not o.curve, _TABLES),
    Use("--model-index", lambda o: not o.curve, _TABLES),
    Use("--margin", lambda o: not o.curve, _TABLES),
    Use("--alpha", lambda o: not o.curve, _TABLES),
    Use("--plain", lambda o: not o.curve, _TABLES),
    Use(
        "--plain",
        lambda o: o.format not in DATA,
        "is about tables to read: csv and json have columns for the intervals",
    ),
    Use("--steps", lambda o: o.curve, "is about --curve: add it"),
    Use(
        "--format", lambda o: not o.curve or o.format == "md", "is about the card's tables: --curve prints md"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run folders, models' folders (their latest runs) or blessed baselines; none: the card alone",
    )
    parser.add_argument(
        "--columns",
        help="columns and their order, by comma: names of models; a measured one is taken before a published one, "
        "NAME:published and NAME:measured choose",
    )
    parser.add_argument("--format", choices=FORMATS, help="default: md")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="the card's table without ±; the intervals stand in the tables row by row",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture of the rows with intervals: .svg or .png"
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help="the runs are a training's checkpoints: how each row grows (as 'curve')",
    )
    parser.add_argument("--steps", metavar="N,N,…", help="with --curve: as of 'curve'")
    parser.add_argument(
        "--model-index",
        type=Path,
        metavar="FILE",
        help="the model card's model-index as YAML; the newer eval-results YAML lands beside it",
    )
    add_tolerance(parser)


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(
        runs=tuple(args.runs),
        columns=split_names("--columns", args.columns, "column"),
        format=args.format or "md",
        output=args.output,
        plot=args.plot,
        curve=args.curve,
        model_index=args.model_index,
        tolerance=tolerance_from(args),
        plain=args.plain,
        steps=curve.steps_from(args.steps),
    )
    refuse_unused(args, options, USES)
    curve.check(_curve(options))
    require_place("--model-index", options.model_index)
    return options


def _curve(options: Options) -> curve.Options:
    return curve.Options(options.runs, options.plot, options.output, options.steps)


def main(args: argparse.Namespace) -> int:
    """Prints or writes the tables of the given runs."""
    options = options_from(args)
    if options.curve:
        return curve.show(_curve(options))
    return show(options)


def show(options: Options) -> int:
    """Prints or writes the tables, and what else was asked for."""
    from reports.card import render_tables
    from reports.files import print_or_write
    from reports.finding import find_each
    from reports.model_index import prepare
    from reports.render.pictures import forest
    from reports.runs import load_run

    runs = [load_run(folder) for folder in find_each(options.runs)]
    text = render_tables(runs, options.columns, options.format, options.tolerance, options.plain)
    index = prepare(runs, options.model_index) if options.model_index else None
    if options.plot:
        forest(runs, options.plot, options.columns)
    lines = index.write() if index else []
    print_or_write(text, options.output)
    for line in lines:
        print(line, file=sys.stderr)
    return EXIT_OK
