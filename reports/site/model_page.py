"""A run's page: its rows as a picture and a table, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import published
from reports.boards import JUDGED, labels
from reports.results import RowResult, Run
from reports.site import figures
from reports.site.figures import Line
from reports.site.naming import SUITE_TITLES, Shown, count, notes_text, task_page, when
from reports.site.task_pages import main_figure
from reports.verdicts import row_verdicts

MANY = 12  # tasks of a row that are named one by one


def model_page(item: Shown, everyone: Sequence[Shown]) -> dict[str, Any]:
    """One run: its rows as a picture and a table, and where they come from."""
    run = item.run
    verdicts = row_verdicts(run, published.load(run.suite))
    printed = {label: verdict.printed for label, verdict in verdicts.items()}
    others = [other for other in everyone if other.run.name == run.name and other is not item]
    docs = sum(row.n for row in run.rows)
    return {
        "here": "",
        "name": run.name,
        "key": item.key,
        "suite": run.suite,
        "suite_title": SUITE_TITLES.get(run.suite, run.suite),
        "labels": labels(run),
        "summary": f"{docs:,} docs in {count(len(run.rows), 'row')}; measured {when(run) or 'at an unknown time'} UTC.",
        "pictures": _row_pictures(run, printed),
        "has_published": any(printed.values()),
        "rows": [_model_row(run, row, verdicts) for row in run.rows],
        "facts": [fact for fact in _facts(run) if fact["value"] not in (None, "")],
        "tasks": [_model_task(run, task) for task in run.tasks],
        "others": [
            {
                "page": other.page,
                "title": f"{other.name}, {other.run.suite}, {when(other.run)}",
                "labels": labels(other.run),
            }
            for other in others
        ],
    }


def _row_pictures(run: Run, printed: Mapping[str, str | None]) -> list[dict[str, object]]:
    pictures = []
    for judged, unit in ((False, "Percent"), (True, "Ratings, 1 to 10")):
        lines = [
            Line(
                row.label,
                figures.row_figure(row),
                float(number) if (number := printed.get(row.label)) else None,
            )
            for row in run.rows
            if (row.metric == JUDGED) == judged
        ]
        caption = f"{unit}; lines are 95 % intervals."
        if any(line.published is not None for line in lines):
            caption += " Diamonds: the number printed on the model’s card."
        if picture := figures.forest(lines, f"{run.name}: rows with 95 % intervals", caption):
            pictures.append(picture)
    return pictures


def _model_row(run: Run, row: RowResult, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    verdict = verdicts[row.label]
    seconds = run.record["timing"].get("rows", {}).get(row.label, {}).get("seconds")
    few = row.tasks if len(row.tasks) <= MANY else ()
    return {
        "label": row.label,
        "figure": figures.row_figure(row),
        "n": row.n,
        "metric": row.metric,
        "published": verdict.printed,
        "verdict": verdict.verdict if verdict.printed else "",
        "seconds": seconds,
        "tasks": [{"name": task, "page": task_page(task)} for task in few if task in run.tasks],
        "many": "" if few else f"{len(row.tasks)} tasks, below",
        "note": notes_text(row),
    }


def _model_task(run: Run, task: str) -> dict[str, Any]:
    entry, data = run.record["tasks"][task], run.record["data"]["tasks"].get(task) or {}
    settings = entry.get("settings") or {}
    rows, official = data.get("rows"), data.get("official_rows")
    parts = [f"{rows:,} of {official:,} rows" if isinstance(rows, int) and isinstance(official, int) else ""]
    if data.get("revision"):
        parts.append(f"revision {str(data['revision'])[:12]}")
    parts += [str(data["note"])] if data.get("note") else []
    return {
        "name": task,
        "page": task_page(task),
        "n": entry["n"],
        "shots": settings.get("shots", ""),
        "budget": settings.get("max_new_tokens"),
        "figure": main_figure(run, task),
        "data": "; ".join(part for part in parts if part),
    }


def _facts(run: Run) -> list[dict[str, Any]]:
    model, record = run.model, run.record
    provenance, timing = record["provenance"], record["timing"]
    git, seconds = provenance.get("git") or {}, timing.get("total_seconds")
    versions = provenance.get("versions") or {}
    parameters = model.get("parameters")
    commit = git.get("commit")
    return [
        _fact("Weights from", model["source"], code=True),
        _fact("Revision", model["revision"], code=True),
        _fact("Fingerprint of the weights", model["fingerprint"], code=True),
        _fact("Parameters", f"{parameters:,}" if isinstance(parameters, int) else None),
        _fact("Number type", model["dtype"]),
        _fact("Quantization", model["quantization"]),
        _fact("Prompts", "in the model’s chat template" if model["chat"] else "plain text"),
        _fact("Hash of the chat template", provenance.get("chat_template_sha256"), code=True),
        _fact("Data from", record["data"]["source"]),
        _fact("Limit", None if record["limit"] is None else f"{record['limit']:,} docs a task"),
        _fact("Variant", ", ".join(map(str, provenance["variant"]))),
        _fact("Engine", provenance.get("engine")),
        _fact("Device", _device(provenance)),
        _fact("Seeds", _pairs(provenance.get("seeds"))),
        _fact("Versions", _pairs(versions)),
        _fact(
            "Project commit",
            f"{commit}{' with local changes' if git.get('dirty') else ''}" if commit else None,
            code=True,
        ),
        _fact("Started", provenance.get("started")),
        _fact("Finished", provenance.get("finished")),
        _fact("Time taken", f"{seconds:,.0f} s" if isinstance(seconds, int | float) else None),
        _fact("Run folder", f"{run.folder.parent.name}/{run.folder.name}", code=True),
    ]


def _fact(name: str, value: object, code: bool = False) -> dict[str, Any]:
    return {"name": name, "value": None if value is None else str(value), "code": code}


def _pairs(values: object) -> str:
    if not isinstance(values, Mapping):
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _device(provenance: Mapping[str, Any]) -> str:
    threads = provenance.get("threads")
    return f"{provenance.get('device') or 'unknown'}{f', {threads} threads' if threads else ''}"
