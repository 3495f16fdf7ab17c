"""A training's curve: how each row grows over checkpoints, as a table and as a picture.

A checkpoint's step is the number in its model's name ("step-1000", "checkpoint-500", "model-step1000-tokens2B");
what is left of the name tells trainings apart. A model without a number is a level line to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.commands.options import Asked, argument, option, picture, place
from evals.core.errors import EXIT_OK, UserError


def whole_numbers(text: str) -> tuple[int, ...]:
    """The steps that --steps names. Raises UserError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not (name.isascii() and name.isdigit()):
            raise UserError(
                f"--steps {text}: '{name[:40]}' is no step; give whole numbers by comma, one a run"
            )
    return tuple(map(int, names))


STEPS: dict[str, Any] = {"metavar": "N,N,…", "type": whole_numbers, "names": "step"}


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `curve` was asked for."""

    runs: tuple[str, ...] = argument(
        "run folders, or folders that hold the runs of checkpoints", "RUN", nargs="+"
    )
    steps: tuple[int, ...] | None = option(
        "the runs' steps in their order, where their models' names do not say them", **STEPS
    )
    plot: Path | None = option("a picture of the curves: .svg or .png", "FILE", check=picture)
    output: Path | None = option("write the tables there instead of printing", "FILE", check=place)


def main(options: Options) -> int:
    """Prints the tables of all trainings; draws them with --plot. Raises UserError."""
    options.check()
    return show(options.runs, options.steps, options.plot, options.output)


def show(runs: Sequence[str], steps: Sequence[int] | None, plot: Path | None, output: Path | None) -> int:
    """Prints or writes the tables, and draws. Raises UserError."""
    from reports.curve import draw, find_curves, tables
    from reports.files import print_or_write
    from reports.finding import find_each
    from reports.render.tables import markdown
    from reports.runs import load_run

    curves = find_curves([load_run(folder) for folder in find_each(runs)], steps)
    text = "\n".join(markdown(table) for table in tables(curves))
    if plot:
        draw(curves, plot)
    print_or_write(text, output)
    return EXIT_OK
