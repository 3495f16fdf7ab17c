"""run.json: what results/README.md says, from a finished run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from evals.core.card import Row, budgets
from evals.data.sources import SMOKE_BUDGET
from evals.run import provenance

if TYPE_CHECKING:
    from evals.models.known import ModelSpec
    from evals.run.loop import Run

SEEDS = {"shuffle": 42, "bbh_shots": 0}


def run_record(
    run: Run, spec: ModelSpec, described: dict[str, Any], phases: dict[str, float]
) -> dict[str, Any]:
    """The whole of run.json. `described` has the keys "model" and "machine"; `phases` those before the loop."""
    from evals.core.statistics import summarize_task
    from evals.run.loop import SCHEMA_VERSION

    settings, work = run.settings, run.work
    every_phase = {**phases, **run.phases}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": spec.name,
            "source": spec.label,
            "revision": spec.revision,
            **described["model"],
            "chat": run.adapter.chat,
            "card_column": spec.column_for(work.suite.name),
        },
        "suite": work.suite.name,
        "limit": settings.limit,
        "data": {
            "source": settings.source.kind,
            "tasks": {name: work.data[name].record for name in run.columns},
        },
        "tasks": {
            name: {
                "n": len(columns["doc_id"]),
                "metrics": summarize_task(columns),
                "settings": _settings(run, name),
            }
            for name, columns in run.columns.items()
        },
        "rows": [_row(run, row, described["model"]["quantization"]) for row in work.rows],
        "provenance": {
            "versions": provenance.versions(),
            "git": provenance.git_state(),
            "prompt_hashes": {
                name: provenance.joint_hash(columns["prompt_hash"]) for name, columns in run.columns.items()
            },
            **described["machine"],
            "seeds": SEEDS,
            "variant": settings.variants,
            "started": run.started,
            "finished": provenance.now(),
        },
        "timing": {
            "total_seconds": round(sum(phases.values()) + time.monotonic() - run.clock, 3),
            "phases": {name: round(seconds, 3) for name, seconds in every_phase.items()},
            "spans": _spans(run, phases),
            "rows": run.row_timing,
        },
    }


def _spans(run: Run, before: dict[str, float]) -> list[list[Any]]:
    """[phase, row or "", begin, end] of every stretch of work, in Unix seconds; `before`: phases before the loop."""
    begin = run.began - sum(before.values())
    spans: list[list[Any]] = []
    for name, seconds in before.items():
        spans.append([name, "", round(begin, 3), round(begin + seconds, 3)])
        begin += seconds
    return spans + [[name, row, round(start, 3), round(end, 3)] for name, row, start, end in run.spans]


def _settings(run: Run, name: str) -> dict[str, Any]:
    from tasks import get_task

    task, doc = get_task(name), run.work.docs[name][0]
    return {
        "shots": task.num_fewshots,
        "max_new_tokens": doc.generation_size,
        "stops": [] if run.adapter.chat else list(doc.stop_sequences or ()),
    }


def _row(run: Run, row: Row, quantization: str | None) -> dict[str, Any]:
    from evals.core.statistics import summarize_row

    present = [name for name in row.tasks if name in run.columns]
    notes: list[dict[str, str]] = []
    if len(present) == len(row.tasks):
        value = summarize_row(row.metric, {name: run.columns[name] for name in row.tasks})
    else:
        value = {"value": None, "stderr": None, "n": 0}
        reasons = dict.fromkeys(run.missing[name] for name in row.tasks if name in run.missing)
        notes.append({"code": "missing", "text": "; ".join(reasons)})
    if row.metric == "judge_score" and present:
        value = {"value": None, "stderr": None, "n": len(run.columns[present[0]]["doc_id"])}
        notes.append(
            {"code": "not_judged", "text": "answers generated, not judged: see 'run_evals.py judge'"}
        )
    notes += _doubts(run, row, present, quantization) + _secondary(run, row, present)
    return {
        "label": row.label,
        **value,
        "metric": row.metric,
        "tasks": list(row.tasks),
        "notes": notes,
        "note": "; ".join(note["text"] for note in notes),
    }


def _doubts(run: Run, row: Row, present: list[str], quantization: str | None) -> list[dict[str, str]]:
    """Everything for which the row is not the card's measurement as it stands."""
    from evals.core.card import SUITES

    notes = []
    settings = run.settings
    if settings.limit is not None and any(
        run.work.data[name].record["rows"] > settings.limit for name in present
    ):
        notes.append({"code": "limit", "text": f"only the first {settings.limit} docs of each task"})
    if settings.source.kind == "smoke" and present:
        text = "built-in smoke items, not the benchmark"
        if any(run.work.docs[name][0].generation_size for name in present):
            text += f"; at most {SMOKE_BUDGET} new tokens"
        notes.append({"code": "smoke", "text": text})
    if quantization:
        notes.append({"code": "quantized", "text": f"{quantization} weights, not the published checkpoint"})
    if settings.source.kind != "smoke":
        for name in present:
            if not run.work.data[name].record["complete"]:
                notes.append({"code": "subset", "text": f"{name}: {run.work.data[name].record['note']}"})
    whole = next(one for one in SUITES[run.work.suite.name].rows if one.label == row.label)
    if len(row.tasks) < len(whole.tasks):
        notes.append(
            {"code": "subset", "text": f"only {len(row.tasks)} of the row's {len(whole.tasks)} tasks"}
        )
    changed = budgets(settings.variants, run.work.suite)
    for name in present:
        if name in changed:
            notes.append(
                {"code": "variant", "text": f"{name}: {changed[name]} new tokens instead of the card's"}
            )
    return notes


def _secondary(run: Run, row: Row, present: list[str]) -> list[dict[str, str]]:
    """A second figure worth seeing beside the row's."""
    from evals.core.statistics import summarize_row

    found = {
        "MMLU (cloze)": ("acc_norm_nospace_macro", "mean of the 57 subjects (macro)"),
        "IFEval (Average prompt/inst)": ("ifeval_loose", "loose instead of strict"),
    }
    if row.label not in found or len(present) < len(row.tasks):
        return []
    metric, words = found[row.label]
    value = summarize_row(metric, {name: run.columns[name] for name in row.tasks})
    if value["value"] is None:
        return []
    error = "" if value["stderr"] is None else f" ± {1.96 * value['stderr']:.1f}"
    return [{"code": "secondary", "text": f"{words}: {value['value']:.1f}{error} (n = {value['n']})"}]
