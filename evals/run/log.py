"""The log of a finished run (evals/core/runlog.py): its figures, its rows' notes, where it comes from."""

from __future__ import annotations

import time
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
from evals.run import provenance

if TYPE_CHECKING:
    from evals.models.known import ModelSpec
    from evals.run.loop import Run

SEEDS = {"shuffle": 42, "bbh_shots": 0}


def run_log(run: Run, spec: ModelSpec, phases: dict[str, float]) -> RunLog:
    """The whole log. `phases`: those before the loop."""
    card, data, described = run.work.card, run.work.data, run.adapter.described
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
        limit=run.settings.limit,
        data=DataLog(
            source=run.settings.source.kind,  # type: ignore[arg-type]  # one of them by parse_source
            tasks={name: _data(name, data[name].record) for name in run.columns},
        ),
        tasks={name: _task(run, name) for name in run.columns},
        rows=[_row(run, row, described["model"]["quantization"]) for row in run.work.rows],
        provenance=_provenance(run, described["machine"]),
        timing={
            "total_seconds": round(sum(phases.values()) + time.monotonic() - run.clock, 3),
            "phases": {name: round(seconds, 3) for name, seconds in {**phases, **run.phases}.items()},
            "spans": _spans(run, phases),
            "rows": run.row_timing,
        },
    )


def _provenance(run: Run, machine: dict[str, Any]) -> Provenance:
    return Provenance(
        versions=provenance.versions(),
        git=provenance.git_state(),
        prompt_hashes={
            name: provenance.joint_hash(columns["prompt_hash"]) for name, columns in run.columns.items()
        },
        **machine,
        seeds=SEEDS,
        variant=run.settings.variants,
        started=run.started,
        finished=provenance.now(),
    )


def _spans(run: Run, before: dict[str, float]) -> list[list[Any]]:
    """[phase, row or "", begin, end] of every stretch of work, in Unix seconds; `before`: phases before the loop."""
    begin = run.began - sum(before.values())
    spans: list[list[Any]] = []
    for name, seconds in before.items():
        spans.append([name, "", round(begin, 3), round(begin + seconds, 3)])
        begin += seconds
    return spans + [[name, row, round(start, 3), round(end, 3)] for name, row, start, end in run.spans]


def _data(name: str, record: dict[str, Any]) -> TaskDataLog:
    from tasks import get_task

    task = get_task(name)
    return TaskDataLog(repo=task.repo, subset=task.subset, split=task.split, **record)


def _task(run: Run, name: str) -> TaskLog:
    from tasks import get_task

    task, doc, columns = get_task(name), run.work.docs[name][0], run.columns[name]
    settings = {
        "shots": task.shots,
        "max_new_tokens": doc.generation_size,
        "stops": [] if run.adapter.chat else list(doc.stop_sequences or ()),
    }
    metrics = {name: MetricLog(**one) for name, one in statistics.summarize_task(columns).items()}
    return TaskLog(n=len(columns["doc_id"]), metrics=metrics, settings=settings)


def _row(run: Run, row: Row, quantization: str | None) -> RowLog:
    present = [name for name in row.tasks if name in run.columns]
    samples = {name: run.columns[name] for name in present}
    whole = len(present) == len(row.tasks)
    value: dict[str, Any] = {"value": None, "stderr": None, "n": 0}
    notes: list[Note] = []
    if not whole:
        reasons = dict.fromkeys(run.missing[name] for name in row.tasks if name in run.missing)
        notes.append(Note(code="missing", text="; ".join(reasons)))
    elif row.of.judged:
        value["n"] = sum(len(columns["doc_id"]) for columns in samples.values())
        notes.append(Note(code="not_judged", text="answers generated, not judged: see 'run_evals.py judge'"))
    else:
        value = statistics.summarize_row(row.of, samples)
    notes += _doubts(run, row, present, quantization)
    if whole and row.second is not None:
        notes += _second_figure(row, samples)
    return RowLog(
        label=row.label,
        **value,
        metric=row.metric,
        tasks=list(row.tasks),
        notes=notes,
        note="; ".join(note.text for note in notes),
    )


def _doubts(run: Run, row: Row, present: list[str], quantization: str | None) -> list[Note]:
    """Everything for which the row is not the card's measurement as it stands."""
    notes = []
    settings, data = run.settings, run.work.data
    counts = {name: len(run.work.docs[name]) for name in present}
    cut = sorted({n for name, n in counts.items() if n < data[name].record["rows"]})
    if cut:
        few = f"{cut[0]}" if len(cut) == 1 else f"{cut[0]} to {cut[-1]}"
        notes.append(Note(code="limit", text=f"only the first {few} docs of each task"))
    if settings.source.kind == "smoke" and present:
        text = "built-in smoke items, not the benchmark"
        if any(run.work.docs[name][0].generation_size for name in present):
            text += f"; at most {SMOKE_BUDGET} new tokens"
        notes.append(Note(code="smoke", text=text))
    if quantization:
        notes.append(Note(code="quantized", text=f"{quantization} weights, not the published checkpoint"))
    if settings.source.kind != "smoke":
        notes += [
            Note(code="subset", text=f"{name}: {data[name].record['note']}")
            for name in present
            if not data[name].record["complete"]
        ]
    whole = run.work.card.row(row.label)
    if whole is not None and len(row.tasks) < len(whole.tasks):
        text = f"only {len(row.tasks)} of the row's {len(whole.tasks)} tasks"
        notes.append(Note(code="subset", text=text))
    changed = run.work.card.budgets(settings.variants)
    notes += [
        Note(code="variant", text=f"{name}: {changed[name]} new tokens instead of the card's")
        for name in present
        if name in changed
    ]
    return notes


def _second_figure(row: Row, samples: dict[str, Any]) -> list[Note]:
    """The row's second figure, where the card names one."""
    assert row.second is not None
    value = statistics.summarize_row(get_metric(row.second.metric), samples)
    if value["value"] is None:
        return []
    error = "" if value["stderr"] is None else f" ± {1.96 * value['stderr']:.1f}"
    text = f"{row.second.words}: {value['value']:.1f}{error} (n = {value['n']})"
    return [Note(code="secondary", text=text)]
