"""The log of a finished run (evals/core/runlog.py): its figures, its rows' notes, where it comes from."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import statistics
from evals.core.card import Row, card_names
from evals.core.metric import get_metric
from evals.core.runlog import (
    DataLog,
    MetricLog,
    ModelLog,
    Note,
    Provenance,
    RowLog,
    RunLog,
    TaskDataLog,
    TaskLog,
)
from evals.data.sources import SMOKE_BUDGET

if TYPE_CHECKING:
    from evals.models.known import ModelSpec
    from evals.run.loop import Run
    from evals.run.samples import Columns

SEEDS = {"shuffle": 42, "bbh_shots": 0}
PACKAGES = ("lighteval", "transformers", "torch", "datasets", "tokenizers")


def run_log(run: Run, spec: ModelSpec, before: dict[str, float]) -> RunLog:
    """The whole log. `before`: seconds of the phases before the loop."""
    card, settings, described = run.work.card, run.settings, run.adapter.described
    now = time.monotonic()
    shift = time.time() - now  # by what the clock says now, whatever it was set to meanwhile
    return RunLog(
        model=ModelLog(
            name=spec.name,
            source=spec.label,
            revision=spec.revision,
            **described["model"],
            chat=run.adapter.chat,
            card_column=spec.column_for(card),
        ),
        suite=card.name,
        card=None if card.name in card_names() else card,
        limit=settings.limit,
        data=DataLog(
            source=settings.source.kind,  # type: ignore[arg-type]  # one of them by parse_source
            tasks={name: _data(name, run.work.data[name].record) for name in run.columns},
        ),
        tasks={name: _task(run, name) for name in run.columns},
        rows=[_row(run, row, described["model"]["quantization"]) for row in run.work.rows],
        provenance=Provenance(
            versions=versions(),
            git=_git_state(),
            prompt_hashes={name: joint_hash(columns["prompt_hash"]) for name, columns in run.columns.items()},
            **described["machine"],
            seeds=SEEDS,
            variant=settings.variants,
            started=utc(run.clock + shift),
            finished=utc(now + shift),
        ),
        timing=_timing(run, before, now, shift),
    )


def _timing(run: Run, before: dict[str, float], now: float, shift: float) -> dict[str, Any]:
    """Seconds in all, by phase and by row; spans in Unix seconds: the monotonic clock's and `shift`."""
    ends = accumulate(before.values(), initial=run.clock - sum(before.values()))
    earlier = [(name, "", *span) for name, span in zip(before, pairwise(ends), strict=True)]
    phases = dict(before)
    for name, _, begin, end in run.spans:
        phases[name] = phases.get(name, 0.0) + end - begin
    return {
        "total_seconds": round(sum(before.values()) + now - run.clock, 3),
        "phases": {name: round(seconds, 3) for name, seconds in phases.items()},
        "spans": [
            [name, row, round(begin + shift, 3), round(end + shift, 3)]
            for name, row, begin, end in earlier + run.spans
        ],
        "rows": run.row_timing,
    }


def _data(name: str, record: dict[str, Any]) -> TaskDataLog:
    from tasks import get_task

    task = get_task(name)
    return TaskDataLog(repo=task.repo, subset=task.subset, split=task.split, **record)


def _task(run: Run, name: str) -> TaskLog:
    from tasks import get_task

    doc = run.work.docs[name][0]
    stops = [] if run.adapter.chat else list(doc.stop_sequences or ())
    settings = {"shots": get_task(name).shots, "max_new_tokens": doc.generation_size, "stops": stops}
    return task_log(run.columns[name], settings)


def task_log(columns: Columns, settings: dict[str, Any]) -> TaskLog:
    """A task's figures, from its samples."""
    metrics = {name: MetricLog(**one) for name, one in statistics.summarize_task(columns).items()}
    return TaskLog(n=len(columns["doc_id"]), metrics=metrics, settings=settings)


def _row(run: Run, row: Row, quantization: str | None) -> RowLog:
    samples = {name: run.columns[name] for name in row.tasks if name in run.columns}
    whole = len(samples) == len(row.tasks)
    value: Mapping[str, Any] = {"value": None, "stderr": None, "n": 0}
    notes = []
    if not whole:
        reasons = dict.fromkeys(run.missing[name] for name in row.tasks if name in run.missing)
        notes.append(("missing", "; ".join(reasons)))
    elif row.of.judged:
        value = {**value, "n": sum(len(columns["doc_id"]) for columns in samples.values())}
        notes.append(("not_judged", "answers generated, not judged: see 'run_evals.py judge'"))
    else:
        value = statistics.summarize_row(row.of, samples)
    notes += _doubts(run, row, list(samples), quantization)
    if whole and row.second is not None:
        second = statistics.summarize_row(get_metric(row.second.metric), samples)
        if second["value"] is not None:
            error = "" if second["stderr"] is None else f" ± {1.96 * second['stderr']:.1f}"
            figure = f"{row.second.words}: {second['value']:.1f}{error} (n = {second['n']})"
            notes.append(("secondary", figure))
    return row_log(row, value, notes)


def row_log(row: Row, value: Mapping[str, Any], notes: Sequence[tuple[str, str]]) -> RowLog:
    """A row with its value, standard error and n, and its notes: (code, text)."""
    return RowLog(
        label=row.label,
        **value,
        metric=row.metric,
        tasks=list(row.tasks),
        notes=[Note(code=code, text=text) for code, text in notes],
        note="; ".join(text for _, text in notes),
    )


def _doubts(
    run: Run, row: Row, present: Sequence[str], quantization: str | None
) -> Iterator[tuple[str, str]]:
    """Everything for which the row is not the card's measurement as it stands: (code, text)."""
    card, docs = run.work.card, run.work.docs
    records = {name: run.work.data[name].record for name in present}
    cut = {n for name in present if (n := len(docs[name])) < records[name]["rows"]}
    if cut:
        few = " to ".join(map(str, sorted({min(cut), max(cut)})))
        yield "limit", f"only the first {few} docs of each task"
    smoke = run.settings.source.kind == "smoke"
    if smoke and present:
        budget = any(docs[name][0].generation_size for name in present)
        tokens = f"; at most {SMOKE_BUDGET} new tokens" if budget else ""
        yield "smoke", f"built-in smoke items, not the benchmark{tokens}"
    if quantization:
        yield "quantized", f"{quantization} weights, not the published checkpoint"
    for name, record in records.items():
        if not smoke and not record["complete"]:
            yield "subset", f"{name}: {record['note']}"
    whole = card.row(row.label)
    if whole is not None and len(row.tasks) < len(whole.tasks):
        yield "subset", f"only {len(row.tasks)} of the row's {len(whole.tasks)} tasks"
    changed = card.budgets(run.settings.variants)
    for name in present:
        if name in changed:
            yield "variant", f"{name}: {changed[name]} new tokens instead of the card's"


def versions() -> dict[str, str | None]:
    """Versions of this project, Python and the packages that numbers depend on (None: not installed)."""
    found: dict[str, str | None] = {"project": None, "python": platform.python_version()}
    for name in ("project", *PACKAGES):
        try:
            found[name] = metadata.version("smol-evals" if name == "project" else name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _git_state() -> dict[str, Any]:
    """This project's commit and whether its files differ from it; nulls outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if (root / ".git").exists():  # installed: a repository around the environment is another's
        try:
            done = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            commit, _, dirty = done.stdout.strip().partition("-")
            return {"commit": commit, "dirty": bool(dirty)}
    return {"commit": None, "dirty": None}


def joint_hash(digests: Sequence[str]) -> str:
    """One digest over an ordered list of digests: a task's prompts."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def utc(seconds: float) -> str:
    """A Unix time in UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
