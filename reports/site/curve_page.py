"""Curves over a training's checkpoints: a small picture a row, with the interval of every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.core.errors import UserError
from reports.curve import Curve, find_curves, labels_of
from reports.render.tables import one_line
from reports.runs import Run
from reports.site import figures
from reports.site.naming import count


def curve_page(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Every training among the runs with two checkpoints or more; None where there is none."""
    try:
        curves = find_curves(runs)
    except UserError:
        return None
    trainings = [_training(curve) for curve in curves if not curve.is_level and len(curve.points) > 1]
    return {"here": "curve", "trainings": trainings}


def _training(curve: Curve) -> dict[str, Any]:
    card = curve.points[0][1].card
    name = one_line(curve.name) or "checkpoints"
    caption = f"{count(len(curve.points), 'checkpoint')}; lines are 95 % intervals."
    if any(row.has("limit") for _, run in curve.points for row in run.rows):
        caption += " Some are partial: the first docs of each task only."
    pictures = [picture for label in labels_of([curve]) if (picture := _picture(curve, label))]
    return {
        "title": f"{card.heading}: {name}",
        "smoke": curve.smoke,
        "caption": caption,
        "pictures": pictures,
    }


def _picture(curve: Curve, label: str) -> dict[str, Any] | None:
    """Places of a row's points in percent of width and height; None for a single point."""
    found = [(step or 0, figures.row_figure(row)) for step, row in curve.values(label)]
    if len(found) < 2:
        return None
    first = curve.values(label)[0][1]
    across = figures.axis([step for step, _ in found])
    bounds = [v for _, figure in found for v in (figure.value, figure.low, figure.high) if v is not None]
    up = figures.axis(bounds)

    def y(value: float) -> float:
        return round(100 - up.place(value), 2)

    points = [
        {
            "x": across.place(step),
            "y": y(figure.value),
            "low": y(figure.low) if figure.low is not None else y(figure.value),
            "high": y(figure.high) if figure.high is not None else y(figure.value),
            "title": f"step {step:,}: {figure.text} ({figure.interval_text or 'no interval'}), n = {figure.n:,}",
        }
        for step, figure in found
        if figure.value is not None
    ]
    grid = [{"y": round(100 - float(str(tick["x"])), 2), "text": tick["text"]} for tick in up.ticks()]
    return {"label": label, "unit": first.metric.unit_words, "n": first.n, "points": points, "grid": grid,
            "ticks": across.ticks()}  # fmt: skip
