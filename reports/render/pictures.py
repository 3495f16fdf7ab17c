"""Pictures of numbers with their 95 % intervals: how every one is drawn, and the forest plot of a report."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evals.core.errors import UserError
from evals.core.files import write_atomic
from reports.card import Column, Section, sections
from reports.render.tables import one_line
from reports.runs import RowResult, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png")
# Okabe and Ito's colours, told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
HOLLOW = "#666666"
SHAPES = ("D", "s", "^", "v", "P", "X")
BARS = "Bars are 95 % intervals over the docs."
# the same numbers give the same file; text stays text
OPTIONS: dict[Any, Any] = {"svg.hashsalt": "smol-evals", "svg.fonttype": "none", "text.parse_math": False}


def check_format(path: Path) -> None:
    """Raises UserError for a picture's file that ends otherwise than .svg or .png, or whose folder is missing."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot writes .svg or .png, not '{path.name}'")
    if not path.parent.is_dir():
        raise UserError(f"cannot write '{path}': there is no folder '{path.parent}'")


@contextmanager
def picture(
    paths: Sequence[Path],
    size: tuple[float, float],
    caption: str,
    down: int = 1,
    across: int = 1,
    **grid: Any,
) -> Iterator[list[Axes]]:
    """Panels to draw on, row by row; then the files, the same bytes for the same numbers. Raises UserError.

    `size` in inches; `caption` says below what the bars are; `grid`: as matplotlib's gridspec.
    """
    for path in paths:
        check_format(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(OPTIONS):
        figure, axes = pyplot.subplots(
            down, across, figsize=size, squeeze=False, layout="constrained", gridspec_kw=grid
        )
        try:
            yield list(axes.flat)
            figure.supxlabel(caption, x=0.01, ha="left", fontsize="small", color=HOLLOW)
            for path in paths:
                kind = path.suffix.lower().removeprefix(".")
                buffer = io.BytesIO()
                metadata = {"Date": None} if kind == "svg" else {"Software": None}
                figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
                write_atomic(path, buffer.getvalue())
        finally:
            pyplot.close(figure)


def error_bars(rows: Sequence[RowResult]) -> tuple[list[float], list[list[float]]]:
    """(values, [how far each interval reaches below, above]) of the rows that have a value."""
    known = [(row.value, row.interval or (row.value, row.value)) for row in rows if row.value is not None]
    below, above = (
        [max(0.0, v - low) for v, (low, _) in known],
        [max(0.0, high - v) for v, (_, high) in known],
    )
    return [value for value, _ in known], [below, above]


def quiet(axis: Axes, direction: Literal["both", "x", "y"]) -> None:
    """A light grid behind the numbers, and no frame above and beside them."""
    axis.grid(axis=direction, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def forest(runs: Sequence[Run], path: Path, columns: Sequence[str] | None = None) -> None:
    """Each row's value with its interval beside the published numbers; `columns` as in `sections`. Raises UserError."""
    panels = [(part, *one) for part in sections(runs, columns) for one in enumerate(_by_unit(part))]
    heights = [_height(*panel) for panel in panels]
    caption = f"{BARS} Hollow marks: published numbers, printed without an error."
    with picture([path], (9, sum(heights) + 0.3), caption, len(panels), height_ratios=heights) as axes:
        for axis, panel in zip(axes, panels, strict=True):
            _panel(axis, *panel)


def _by_unit(part: Section) -> list[list[str]]:
    """The table's rows, those of one unit together, percent first."""
    units: dict[str, list[str]] = {}
    for label in part.labels:
        units.setdefault(part.metric(label).unit_words, []).append(label)
    return sorted(units.values(), key=lambda labels: not part.metric(labels[0]).in_percent)


def _height(part: Section, number: int, labels: list[str]) -> float:
    """Inches: a line for every run of every row, and room for the axis and, in the first panel, the legend."""
    lines = max(1, sum(column.run is not None for column in part.columns))
    rows = 0.9 + len(labels) * (0.2 + 0.14 * lines)
    return rows if number else max(rows, 0.6 + 0.22 * len(part.columns))


def _panel(axis: Axes, part: Section, number: int, labels: list[str]) -> None:
    measured = [column for column in part.columns if column.run is not None]
    published = [column for column in part.columns if column.run is None]
    handles: list[Any] = []
    for k, column in enumerate(published):
        handles.append(_published(axis, part, column, labels, SHAPES[k % len(SHAPES)]))
    for k, column in enumerate(measured):
        offset = (k - (len(measured) - 1) / 2) * 0.7 / max(2, len(measured))
        handles.append(_measured(axis, column, labels, offset, COLOURS[k % len(COLOURS)]))
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    metric = part.metric(labels[0])
    axis.set_xlabel(metric.unit_words)
    low, high = (bound if math.isfinite(bound) else None for bound in (metric.low, metric.high))
    axis.set_xlim(low, None if metric.unit == "percent" else high)
    quiet(axis, "x")
    if number:
        return  # the panel above has the title and the legend
    axis.set_title(part.title, loc="left", fontweight="bold")
    names = [one_line(column.title)[:60] for column in (*published, *measured)]
    axis.legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")


def _published(axis: Axes, part: Section, column: Column, labels: list[str], shape: str) -> Any:
    rows = {y: row for y, label in enumerate(labels) if (row := part.card.row(label))}
    points = {y: value for y, row in rows.items() if (value := row.value(column.model)) is not None}
    xs, ys = list(points.values()), list(points)
    return axis.plot(xs, ys, shape, markerfacecolor="none", markeredgecolor=HOLLOW, markersize=6)[0]


def _measured(axis: Axes, column: Column, labels: list[str], offset: float, colour: str) -> Any:
    assert column.run is not None
    known = [(y + offset, row) for y, label in enumerate(labels) if (row := column.run.row(label))]
    values, whiskers = error_bars([row for _, row in known])
    ys = [y for y, row in known if row.value is not None]
    style: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 3, "linewidth": 1.4}
    return axis.errorbar(values, ys, xerr=whiskers, color=colour, **style)
