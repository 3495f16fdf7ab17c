"""A training's curve: how each row grows over checkpoints, as a table and as a picture.

A checkpoint's step is the number in its model's name ("step-1000", "checkpoint-500", "model-step1000-tokens2B");
what is left of the name tells trainings apart. A model without a number is a level line to compare with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.card import best
from evals.core.errors import UserError
from reports.boards import latest
from reports.card import DASH, plus_minus, table_title
from reports.comparability import SETTINGS, mismatches
from reports.render.pictures import COLOURS, OPTIONS, check_format, save
from reports.render.tables import Cell, Footnotes, Table, one_line
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

    def row(self, label: str) -> RowResult | None:
        """The row of that label in the first checkpoint that has it with a value, or None."""
        return next((row for _, run in self.points if (row := _valued(run, label)) is not None), None)


def _valued(run: Run, label: str) -> RowResult | None:
    row = run.row(label)
    return None if row is None or row.value is None else row


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
    suites = list(cards_of(run for curve in curves for _, run in curve.points))
    curves.sort(key=lambda curve: (suites.index(curve.suite), curve.smoke, curve.is_level, curve.name))
    return curves


def tables(curves: Sequence[Curve]) -> list[Table]:
    """One table a training: steps down, rows of the card across; level lines are not repeated here."""
    return [_table(curve) for curve in curves if not curve.is_level]


def _table(curve: Curve) -> Table:
    labels, notes = _labels([curve]), Footnotes()
    bold = {label: _best(curve, label) for label in labels}
    first = curve.points[0][1]
    lines = []
    for step, run in curve.points:
        unlike = [one.text for one in mismatches(first, run) if one.code in SETTINGS]
        marks = (notes.mark(f"not measured as the first checkpoint: {'; '.join(unlike)}"),) if unlike else ()
        cells = [Cell(f"{step:,}", marks=marks)]
        for label in labels:
            row = _valued(run, label)
            text = DASH if row is None else _shown(row)
            spread = "" if row is None else plus_minus(row, row.metric.digits)
            cells.append(Cell(text + spread, bold=text in bold[label]))
        lines.append(tuple(cells))
    return Table(
        _title(curve), tuple(Cell(text) for text in ("Step", *labels)), tuple(lines), tuple(notes.texts)
    )


def _title(curve: Curve) -> str:
    title = f"{curve.points[0][1].card.title}: {one_line(curve.name) or 'checkpoints'}"
    return table_title(title, curve.smoke)


def _labels(curves: Sequence[Curve]) -> list[str]:
    """The measured rows' labels, in the card's order."""
    runs = [run for curve in curves for _, run in curve.points]
    measured = {row.label for run in runs for row in run.rows if row.value is not None}
    known = [row.label for row in runs[0].card.rows if row.label in measured]
    return [*known, *sorted(measured.difference(known))]


def _shown(row: RowResult) -> str:
    return f"{row.value:.{row.metric.digits}f}"


def _best(curve: Curve, label: str) -> set[str]:
    """The texts of the best value of a row."""
    rows = [row for _, run in curve.points if (row := _valued(run, label)) is not None]
    texts = {str(k): _shown(row) for k, row in enumerate(rows)}
    return {texts[k] for k in best(texts, rows[0].metric.higher_is_better)} if rows else set()


def draw(curves: Sequence[Curve], path: Path) -> None:
    """A panel for each row of each suite: value over step with its 95 % band. Raises UserError."""
    check_format(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[tuple[str, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.suite, curve.smoke), []).append(curve)
    panels = [(members, label) for members in groups.values() for label in _labels(members)]
    with matplotlib.rc_context(OPTIONS):
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        figure, axes = pyplot.subplots(
            down, across, figsize=(3.6 * across, 2.7 * down), squeeze=False, layout="constrained"
        )
        for axis, (members, label) in zip(axes.flat, panels, strict=False):
            _panel(axis, members, label)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        save(figure, path)


def _panel(axis: Axes, curves: Sequence[Curve], label: str) -> None:
    for k, curve in enumerate(curves):
        colour = COLOURS[k % len(COLOURS)]
        name = one_line(curve.name)[:40] or "checkpoints"
        points = [
            (step or 0, row.value, *(row.interval or (row.value, row.value)))
            for step, run in curve.points
            if (row := _valued(run, label)) is not None
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
    measured = next(row for curve in curves if (row := curve.row(label)) is not None)
    axis.set_ylabel(measured.metric.unit_words, fontsize="small")
    axis.set_xlabel("step", fontsize="small")
    axis.tick_params(labelsize="small")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize="x-small")
