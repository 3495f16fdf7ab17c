"""A training's curve: how each row grows over checkpoints, as a table and as a picture.

A checkpoint's step is the number in its model's name ("step-1000", "checkpoint-500", "model-step1000-tokens2B");
what is left of the name tells trainings apart. A model without a number is a level line to compare with.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.errors import EXIT_OK, UserError
from reports import published
from reports.boards import latest
from reports.card import TITLES, plus_minus, shown_decimals, write
from reports.comparability import SETTINGS, mismatches
from reports.published import PublishedTable
from reports.render.pictures import COLOURS, FORMATS
from reports.render.tables import Cell, Footnotes, Table, markdown, one_line
from reports.runs import Run, find_runs, load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = re.compile(r"(?:step|checkpoint|ckpt|iter(?:ation)?|epoch)s?[-_.=]?(\d+)", re.IGNORECASE)
NUMBER = re.compile(r"(\d+)(?!.*\d)")
DASH = "–"


@dataclass(frozen=True)
class Curve:
    """One training in one suite: ``points`` are (step, run) by step; a level line has one, at step None."""

    suite: str
    smoke: bool
    name: str
    points: tuple[tuple[int | None, Run], ...]

    @property
    def is_level(self) -> bool:
        """Whether this is a model without a step, for comparison."""
        return self.points[0][0] is None


@dataclass(frozen=True)
class Options:
    """What ``curve`` was asked for; None: left out."""

    runs: tuple[Path, ...]
    plot: Path | None = None
    output: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``curve``."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
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
    folders = [
        found
        for path in options.runs
        for found in ([path] if (path / "run.json").exists() else find_runs(path))
    ]
    curves = find_curves([load_run(folder) for folder in dict.fromkeys(folders)])
    text = "\n".join(markdown(table) for table in tables(curves))
    if options.output:
        write(options.output, text)
    else:
        print(text, end="")
    if options.plot:
        draw(curves, options.plot)
    return EXIT_OK


def step_of(name: str) -> tuple[str, int | None]:
    """(name without the step, step) of a model's name; the step is None when there is no number that can be one."""
    found = STEP.search(name) or (NUMBER.search(name) if re.fullmatch(r"\D*\d+", name) else None)
    if found is None:
        return name, None
    rest = name[: found.start()] + (name[found.end() :] if found.re is STEP else "")
    return rest.strip("-_. "), int(found[1])


def find_curves(runs: Iterable[Run]) -> list[Curve]:
    """Runs by suite and training, steps in order; of one checkpoint's runs the fullest and latest.

    Raises UserError when there is no training with two checkpoints.
    """
    groups: dict[tuple[str, bool, str, bool], list[tuple[int | None, Run]]] = {}
    for run in latest(runs):
        name, step = step_of(run.name)
        groups.setdefault((run.suite, run.smoke, name, step is None), []).append((step, run))
    curves = []
    for (suite, smoke, name, _), points in groups.items():
        points.sort(key=lambda point: (point[0] or 0, point[1].name))
        curves.append(Curve(suite, smoke, name, tuple(points)))
    if not any(len(curve.points) > 1 and not curve.is_level for curve in curves):
        raise UserError(
            "no two checkpoints of one training among these runs: their models' names need a step each, "
            "such as 'step-1000' or 'checkpoint-500'"
        )
    suites = list(TITLES)
    curves.sort(key=lambda curve: (suites.index(curve.suite), curve.smoke, curve.is_level, curve.name))
    return curves


def tables(curves: Sequence[Curve]) -> list[Table]:
    """One table a training: steps down, rows of the card across; level lines are not repeated here."""
    return [_table(curve) for curve in curves if not curve.is_level]


def _table(curve: Curve) -> Table:
    card, notes = published.load(curve.suite), Footnotes()
    labels = _labels([curve], card)
    best = {label: _best(curve, label, shown_decimals(card, label, None)) for label in labels}
    first = curve.points[0][1]
    lines = []
    for step, run in curve.points:
        unlike = [one.text for one in mismatches(first, run) if one.code in SETTINGS]
        marks = (notes.mark(f"not measured as the first checkpoint: {'; '.join(unlike)}"),) if unlike else ()
        cells = [Cell(f"{step:,}", marks=marks)]
        for label in labels:
            row, digits = run.row(label), shown_decimals(card, label, None)
            if row is None or row.value is None:
                cells.append(Cell(DASH))
            else:
                text = f"{row.value:.{digits}f}"
                cells.append(Cell(text + plus_minus(row, digits), bold=text == best[label]))
        lines.append(tuple(cells))
    return Table(
        _title(curve), tuple(Cell(text) for text in ("Step", *labels)), tuple(lines), tuple(notes.texts)
    )


def _title(curve: Curve) -> str:
    smoke = " (smoke items, not the benchmarks)" if curve.smoke else ""
    return f"{TITLES[curve.suite]}: {one_line(curve.name) or 'checkpoints'}{smoke}"


def _labels(curves: Sequence[Curve], card: PublishedTable) -> list[str]:
    """The measured rows' labels, in the card's order."""
    measured = {
        row.label for curve in curves for _, run in curve.points for row in run.rows if row.value is not None
    }
    known = [row.label for row in card.rows if row.label in measured]
    return [*known, *sorted(measured.difference(known))]


def _best(curve: Curve, label: str, digits: int) -> str | None:
    values = [row.value for _, run in curve.points if (row := run.row(label)) and row.value is not None]
    return f"{max(values):.{digits}f}" if values else None


def draw(curves: Sequence[Curve], path: Path) -> None:
    """A panel for each row of each suite: value over step with its 95 % band. Raises UserError."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot writes .svg or .png, not '{path.name}'")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[tuple[str, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.suite, curve.smoke), []).append(curve)
    panels = [
        (members, label)
        for (suite, _), members in groups.items()
        for label in _labels(members, published.load(suite))
    ]
    # the same numbers give the same file; text stays text
    options: dict[Any, Any] = {"svg.hashsalt": "smol-evals", "svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(options):
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        figure, axes = pyplot.subplots(
            down, across, figsize=(3.6 * across, 2.7 * down), squeeze=False, layout="constrained"
        )
        for axis, (members, label) in zip(axes.flat, panels, strict=False):
            _panel(axis, members, label)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise UserError(f"cannot write '{path}': {error.strerror}") from error
        finally:
            pyplot.close(figure)


def _panel(axis: Axes, curves: Sequence[Curve], label: str) -> None:
    for k, curve in enumerate(curves):
        colour = COLOURS[k % len(COLOURS)]
        name = one_line(curve.name)[:40] or "checkpoints"
        points = [
            (step or 0, row.value, *(row.interval or (row.value, row.value)))
            for step, run in curve.points
            if (row := run.row(label)) is not None and row.value is not None
        ]
        if not points:
            continue
        steps, values, lows, highs = zip(*points, strict=True)
        if curve.is_level:
            axis.axhline(values[0], color=colour, linestyle="--", linewidth=1, label=name)
            continue
        axis.plot(steps, values, "o-", color=colour, markersize=3.5, linewidth=1.4, label=name)
        axis.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
    smoke = " (smoke)" if curves[0].smoke else ""
    axis.set_title(f"{label}{smoke}, {curves[0].suite}", loc="left", fontsize="small", fontweight="bold")
    percent = published.load(curves[0].suite).unit(label) == "percent"
    axis.set_ylabel("percent" if percent else "mean rating, 1 to 10", fontsize="small")
    axis.set_xlabel("step", fontsize="small")
    axis.tick_params(labelsize="small")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize="x-small")
