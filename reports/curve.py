"""A training's curve: how each row grows over checkpoints, as a table and as a picture.

A checkpoint's step is the number in its model's name ("step-1000", "checkpoint-500", "model-step1000-tokens2B"), or
what a user says it is; what is left of the name tells trainings apart. A model without a step is a level line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.card import best
from evals.core.errors import UserError
from reports.boards import latest
from reports.card import DASH, SMOKE, SPREAD, plus_minus
from reports.comparability import SETTINGS, mismatches
from reports.render.pictures import BARS, COLOURS, error_bars, picture, quiet
from reports.render.tables import Cell, Footnotes, Table, cells, one_line
from reports.runs import RowResult, Run, cards_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = re.compile(r"(?:step|checkpoint|ckpt|iter(?:ation)?|epoch)s?[-_.=]?(\d+)", re.IGNORECASE)
NUMBER = re.compile(r"(\d+)(?!.*\d)")


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

    def values(self, label: str) -> list[tuple[int | None, RowResult]]:
        """The steps that have a value in the row of that label, with the row."""
        found = [(step, run.row(label)) for step, run in self.points]
        return [(step, row) for step, row in found if row is not None and row.value is not None]


def step_of(name: str) -> tuple[str, int | None]:
    """(name without the step, step) of a model's name; the step is None when there is no number that can be one."""
    found = STEP.search(name) or (NUMBER.search(name) if re.fullmatch(r"\D*\d+", name) else None)
    if found is None:
        return name, None
    rest = name[: found.start()] + (name[found.end() :] if found.re is STEP else "")
    return rest.strip("-_. "), int(found[1])


def named_steps(runs: Sequence[Run], steps: Sequence[int] | None) -> list[tuple[str, int | None, Run]]:
    """(training, step, run) of each run: by its name, or all of one training at the given steps. Raises UserError."""
    if steps is None:
        return [(*step_of(run.name), run) for run in latest(runs)]
    if len(steps) != len(runs):
        raise UserError(
            f"--steps has {len(steps)} numbers for {len(runs)} runs: give one for each run, in their order"
        )
    return [("", step, run) for step, run in zip(steps, runs, strict=True)]


def find_curves(runs: Iterable[Run], steps: Sequence[int] | None = None) -> list[Curve]:
    """Runs by suite and training, steps in order; of one checkpoint's runs the fullest and latest.

    Raises UserError when there is no training with two checkpoints.
    """
    groups: dict[tuple[str, bool, str, bool], list[tuple[int | None, Run]]] = {}
    for name, step, run in named_steps(list(runs), steps):
        groups.setdefault((run.suite, run.smoke, name, step is None), []).append((step, run))
    curves = [
        Curve(suite, smoke, name, tuple(sorted(points, key=lambda point: (point[0] or 0, point[1].name))))
        for (suite, smoke, name, _), points in groups.items()
    ]
    if not any(len(curve.points) > 1 and not curve.is_level for curve in curves):
        raise UserError(
            "no two checkpoints of one training among these runs: their models' names need a step each, "
            "such as 'step-1000' or 'checkpoint-500', or give --steps 1000,2000"
        )
    suites = list(cards_of(run for curve in curves for _, run in curve.points))
    curves.sort(key=lambda curve: (suites.index(curve.suite), curve.smoke, curve.is_level, curve.name))
    return curves


def tables(curves: Sequence[Curve]) -> list[Table]:
    """One table a training: steps down, rows of the card across; level lines are not repeated here."""
    return [_table(curve) for curve in curves if not curve.is_level]


def _table(curve: Curve) -> Table:
    labels, notes = labels_of([curve]), Footnotes()
    columns = {label: dict(curve.values(label)) for label in labels}
    first = curve.points[0][1]
    lines = []
    for step, run in curve.points:
        unlike = [one.text for one in mismatches(first, run) if one.code in SETTINGS]
        marks = (notes.mark(f"not measured as the first checkpoint: {'; '.join(unlike)}"),) if unlike else ()
        lines.append((Cell(f"{step:,}", marks=marks), *(_cell(column, step) for column in columns.values())))
    title = f"{curve.points[0][1].card.title}: {one_line(curve.name) or 'checkpoints'}"
    return Table(
        title + SMOKE * curve.smoke,
        cells("Step", *(_heading(label, columns[label].values()) for label in labels)),
        tuple(lines),
        tuple(notes.texts),
        (SPREAD,),
    )


def _heading(label: str, rows: Iterable[RowResult]) -> str:
    """The row's label and how many docs it is over."""
    sizes = sorted({row.n for row in rows})
    return f"{label} (n = {' to '.join(dict.fromkeys(f'{n:,}' for n in (sizes[0], sizes[-1])))})"


def _cell(column: dict[int | None, RowResult], step: int | None) -> Cell:
    """A step's value; bold where it is the best of the column."""
    shown = {str(key): f"{row.value:.{row.metric.digits}f}" for key, row in column.items()}
    row = column.get(step)
    if row is None:
        return Cell(DASH)
    top = best(shown, row.metric.higher_is_better)
    return Cell(shown[str(step)] + plus_minus(row.interval, row.metric.digits), bold=str(step) in top)


def labels_of(curves: Sequence[Curve]) -> list[str]:
    """The measured rows' labels, in the card's order."""
    runs = [run for curve in curves for _, run in curve.points]
    measured = {row.label for run in runs for row in run.rows if row.value is not None}
    known = [row.label for row in runs[0].card.rows if row.label in measured]
    return [*known, *sorted(measured.difference(known))]


def draw(curves: Sequence[Curve], path: Path) -> None:
    """A panel for each row of each suite: value over step with its 95 % interval. Raises UserError."""
    groups: dict[tuple[str, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.suite, curve.smoke), []).append(curve)
    panels = [(members, label) for members in groups.values() for label in labels_of(members)]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    caption = f"{BARS} Dashed: a model without a step, its interval as a band."
    with picture([path], (3.6 * across, 2.7 * down + 0.3), caption, down, across) as axes:
        for axis, (members, label) in zip(axes, panels, strict=False):
            _panel(axis, members, label)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)


def _panel(axis: Axes, curves: Sequence[Curve], label: str) -> None:
    for k, curve in enumerate(curves):
        colour = COLOURS[k % len(COLOURS)]
        name = one_line(curve.name)[:40] or "checkpoints"
        points = curve.values(label)
        if not points:
            continue
        values, whiskers = error_bars([row for _, row in points])
        if curve.is_level:
            axis.axhline(values[0], color=colour, linestyle="--", linewidth=1, label=name)
            axis.axhspan(
                *(points[0][1].interval or (values[0], values[0])), color=colour, alpha=0.1, linewidth=0
            )
            continue
        style: dict[str, Any] = {"fmt": "o-", "markersize": 3.5, "capsize": 2, "linewidth": 1.4}
        axis.errorbar([step or 0 for step, _ in points], values, whiskers, color=colour, label=name, **style)
    smoke = " (smoke)" if curves[0].smoke else ""
    axis.set_title(f"{label}{smoke}, {curves[0].suite}", loc="left", fontsize="small", fontweight="bold")
    measured = next(row for curve in curves for _, row in curve.values(label))
    axis.set_ylabel(measured.metric.unit_words, fontsize="small")
    axis.set_xlabel("step", fontsize="small")
    axis.tick_params(labelsize="small")
    quiet(axis, "both")
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize="x-small")
