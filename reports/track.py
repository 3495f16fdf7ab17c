"""Rows of runs for an experiment tracker that the user has installed: Trackio or Weights & Biases, by one hook.

Both know init, log and finish. Nothing leaves this machine unless the user's own settings say so: Trackio keeps a local
database, and W&B writes offline unless WANDB_MODE is set.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence

from evals.core.errors import UserError
from reports.curve import step_of
from reports.runs import Run

PROJECT = "smol-evals"


def check_tracker(name: str) -> None:
    """Raises UserError where the tracker's package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: its package is not here: pip install {name}")


def track(runs: Sequence[Run], name: str) -> None:
    """Hands every run's rows to the tracker; a training's checkpoints by their steps."""
    os.environ.setdefault("WANDB_MODE", "offline")
    tracker = importlib.import_module(name)
    for run in runs:
        step = step_of(run.name)[1]
        tracker.init(project=PROJECT, name=f"{run.name} {run.suite} {run.folder.name}", config=about(run))
        tracker.log(numbers(run), **({} if step is None else {"step": step}))
        tracker.finish()


def about(run: Run) -> dict[str, object]:
    """What was measured: model, suite, data, limit and everything that makes rows partial."""
    partial = sorted({note.text for row in run.rows for note in row.doubts})
    found = {"suite": run.suite, "data": run.log.data.source, "limit": run.log.limit, "partial": partial}
    return found | {f"model_{key}": value for key, value in run.model.model_dump().items()}


def numbers(run: Run) -> dict[str, float]:
    """Each row's value, the ends of its 95 % interval, and its docs."""
    found: dict[str, float] = {}
    for row in run.rows:
        if row.value is not None:
            low, high = row.interval or (None, None)
            parts = {"": row.value, "/low": low, "/high": high, "/n": row.n}
            found |= {f"{row.label}{key}": value for key, value in parts.items() if value is not None}
    return found
