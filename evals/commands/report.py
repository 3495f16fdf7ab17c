"""Prints a run's tables again: measured columns beside published ones, with intervals and verdicts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from evals.commands import curve
from evals.commands.curve import STEPS
from evals.commands.options import (
    ALPHA,
    MARGIN,
    Asked,
    argument,
    option,
    picture,
    place,
    switch,
    tolerance,
)
from evals.core.errors import EXIT_OK, UserError, nearest

DATA = ("csv", "json")
FORMATS = ("md", *DATA, "latex", "html", "eee")
TABLES = (
    lambda o: not (o.curve or o.published),
    "is about the card's tables, not about --curve or --published",
)
READ = (
    lambda o: o.format not in DATA,
    "is about tables to read: csv and json have columns for the intervals",
)
MARKDOWN = (
    lambda o: not o.curve or o.format == "md",
    "is about the card's tables: --curve prints md",
)
RECORDS = (lambda o: o.format != "eee", "is about tables: --format eee writes records")
NUMBERS = (lambda o: not o.published or o.format != "eee", "eee is about runs' rows, not about --published")
PICTURE = (lambda o: not o.published, "draws the card's tables or --curve, not --published")
FOLDER = (lambda o: o.format != "eee" or o.output, "eee writes a folder of records: say where by --output")
CURVE = (lambda o: o.curve, "is about --curve: add it")


def _installed(flag: str, name: str) -> None:
    from reports.track import check_tracker

    check_tracker(name)


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `report` was asked for."""

    runs: tuple[str, ...] = argument(
        "run folders, models' folders (their latest runs) or blessed baselines; none: the card alone; with "
        "--published also names of models; none: all of them",
        "RUN", (), nargs="*",
    )  # fmt: skip
    columns: tuple[str, ...] | None = option(
        "columns and their order, by comma: names of models; a measured one is taken before a published one, "
        "NAME:published and NAME:measured choose",
        names="column", needs=[TABLES, RECORDS],
    )  # fmt: skip
    format: str | None = option(
        "default: md; eee: Every Eval Ever records, with their docs, below the folder --output",
        choices=FORMATS, needs=[MARKDOWN, NUMBERS, FOLDER],
    )  # fmt: skip
    plain: bool = switch(
        "the card's table without ±; the intervals stand in the tables row by row",
        needs=[TABLES, READ, RECORDS],
    )
    output: Path | None = option("write there instead of printing", "FILE", check=place)
    published: bool = switch(
        "why two cards disagree: every published number of a model beside the measured ones, and what differs in how "
        "each was asked",
        needs=[(lambda o: not o.curve, "is about the cards' numbers, not about --curve")],
    )
    plot: Path | None = option(
        "a picture of the rows with intervals: .svg or .png", "FILE", check=picture, needs=[PICTURE]
    )
    curve: bool = switch("the runs are a training's checkpoints: how each row grows (as 'curve')")
    steps: tuple[int, ...] | None = option("with --curve: as of 'curve'", **STEPS, needs=[CURVE])
    model_index: Path | None = option(
        "the model card's model-index as YAML; .eval_results/ beside it holds the rows that are benchmarks of the hub",
        "FILE", check=place, needs=[TABLES],
    )  # fmt: skip
    track: str | None = option(
        "also hand the rows to this tracker, if its package is installed; offline unless it is told otherwise",
        choices=("trackio", "wandb"), check=_installed, needs=[TABLES],
    )  # fmt: skip
    margin: float | None = option(**MARGIN, needs=[TABLES, RECORDS])
    alpha: float | None = option(**ALPHA, needs=[TABLES, RECORDS])


def main(options: Options) -> int:
    """Prints or writes the tables of the given runs, and what else was asked for."""
    options.check()
    if options.curve:
        return curve.show(options.runs, options.steps, options.plot, options.output)
    if options.published:
        return _published(options)
    from reports import eee
    from reports.card import render_tables
    from reports.files import print_or_write
    from reports.finding import find_each
    from reports.model_index import prepare
    from reports.render.pictures import forest
    from reports.runs import load_run

    runs = [load_run(folder) for folder in find_each(options.runs)]
    records = options.format == "eee"
    text = "" if records else render_tables(
        runs, options.columns, options.format or "md", tolerance(options), options.plain
    )  # fmt: skip
    index = prepare(runs, options.model_index) if options.model_index else None
    if options.plot:
        forest(runs, options.plot, options.columns)
    if options.track:
        from reports.track import track

        track(runs, options.track)
    lines = index.write() if index else []
    if records and options.output:
        lines += [f"wrote {path}" for path in eee.write(runs, options.output)]
    else:
        print_or_write(text, options.output)
    for line in lines:
        print(line, file=sys.stderr)
    return EXIT_OK


def _published(options: Options) -> int:
    from evals.commands.tasks import protocol
    from evals.core.card import all_cards
    from evals.models.known import KNOWN
    from reports.files import print_or_write
    from reports.finding import find_each
    from reports.published import find_numbers, published_models, render
    from reports.runs import load_run

    printed = published_models(all_cards())
    names = {name: name for name in (*printed, *KNOWN)} | {one.location: one.name for one in KNOWN.values()}
    models = [names[one] for one in options.runs or printed if one in names and not Path(one).exists()]
    places = [one for one in options.runs if one not in names or Path(one).exists()]
    try:
        runs = [load_run(folder) for folder in find_each(places)]
    except UserError as error:
        missing = [one for one in places if not Path(one).exists()]
        hint = f" (models: {nearest(missing[0], list(names))})" if missing else ""
        raise UserError(f"{error}{hint}") from error
    print_or_write(render(find_numbers(models, runs, protocol), options.format or "md"), options.output)
    return EXIT_OK
