"""A run's page: its rows as a picture and a table, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from evals.core.runlog import Provenance, TaskDataLog
from reports.boards import labels
from reports.runs import RowResult, Run
from reports.site import fields, figures
from reports.site.compare_page import address
from reports.site.figures import Line
from reports.site.naming import Shown, count, notes_text, task_page, when
from reports.site.task_pages import main_figure
from reports.verdicts import row_verdicts

MANY = 12  # tasks of a row that are named one by one


def model_page(
    item: Shown, everyone: Sequence[Shown], pairs: Sequence[tuple[Shown, Shown]] = ()
) -> dict[str, Any]:
    """One run: its rows as a picture and a table, and where they come from."""
    run = item.run
    verdicts = row_verdicts(run)
    printed = {label: verdict.printed for label, verdict in verdicts.items()}
    others = [other for other in everyone if other.run.name == run.name and other is not item]
    rows = [_model_row(run, row, verdicts) for row in run.rows]
    docs = sum(row.n for row in run.rows)
    return {
        "here": "",
        "name": run.name,
        "key": item.key,
        "suite": run.suite,
        "suite_title": run.card.heading,
        "labels": labels(run),
        "summary": f"{docs:,} docs in {count(len(run.rows), 'row')}; measured {when(run) or 'at an unknown time'} UTC.",
        "pictures": _row_pictures(run, printed),
        "has_seconds": any(item["seconds"] is not None for item in rows),
        "has_published": any(printed.values()),
        "rows": rows,
        "facts": [fact for fact in _facts(run) if fact["value"]],
        "tasks": [_model_task(run, task) for task in run.tasks],
        "pairs": [
            {"id": address(*pair), "title": next(one for one in pair if one is not item).title}
            for pair in pairs
            if item in pair
        ],
        "others": [
            {"page": other.page, "title": f"{other.title}, {other.run.suite}", "labels": labels(other.run)}
            for other in others
        ],
    }


def _row_pictures(run: Run, printed: Mapping[str, str | None]) -> list[dict[str, object]]:
    pictures = []
    for unit in dict.fromkeys(row.metric.unit_words for row in run.rows):
        lines = [
            Line(
                row.label,
                figures.row_figure(row),
                float(number) if (number := printed.get(row.label)) else None,
            )
            for row in run.rows
            if row.metric.unit_words == unit
        ]
        caption = f"{unit[:1].upper()}{unit[1:]}; lines are 95 % intervals."
        if any(line.published is not None for line in lines):
            caption += " Diamonds: the number printed on the model’s card."
        if picture := figures.forest(lines, f"{run.name}: rows with 95 % intervals", caption):
            pictures.append(picture)
    return pictures


def _model_row(run: Run, row: RowResult, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    verdict = verdicts[row.label]
    seconds = fields.number(fields.part(run.log.timing, "rows", row.label).get("seconds"))
    few = row.tasks if len(row.tasks) <= MANY else ()
    return {
        "label": row.label,
        "figure": figures.row_figure(row),
        "n": row.n,
        "metric": row.metric.name,
        "published": verdict.printed,
        "verdict": verdict.verdict if verdict.printed else "",
        "seconds": seconds,
        "tasks": [{"name": task, "page": task_page(task)} for task in few if task in run.tasks],
        "many": "" if few else f"{len(row.tasks)} tasks",
        "note": notes_text(row),
    }


def _model_task(run: Run, task: str) -> dict[str, Any]:
    data, settings = run.log.data.tasks.get(task) or TaskDataLog(), run.log.tasks[task].settings
    rows, official = fields.thousands(data.rows), fields.thousands(data.official_rows)
    parts = (
        f"{rows} of {official} rows" if rows and official else "",
        f"revision {data.revision[:12]}" if data.revision else "",
    )
    return {
        "name": task,
        "page": task_page(task),
        "n": run.log.tasks[task].n,
        "shots": fields.thousands(settings.get("shots")),
        "budget": fields.count(settings.get("max_new_tokens")),
        "figure": main_figure(run, task),
        "data": "; ".join(one for one in (*parts, data.note) if one),
    }


def _facts(run: Run) -> list[dict[str, Any]]:
    model, provenance = run.model, run.log.provenance
    git = provenance.git
    commit = fields.text(git.get("commit"))
    limit = fields.thousands(run.log.limit)
    return [
        _fact("Weights from", model.source, code=True),
        _fact("Revision", model.revision, code=True),
        _fact("Fingerprint of the weights", model.fingerprint, code=True),
        _fact("Parameters", fields.thousands(model.parameters)),
        _fact("Number type", model.dtype),
        _fact("Quantization", model.quantization),
        _fact("Prompts", "in the model’s chat template" if model.chat else "plain text"),
        _fact("Hash of the chat template", provenance.chat_template_sha256, code=True),
        _fact("Data from", run.log.data.source),
        _fact("Limit", f"{limit} docs a task" if limit else ""),
        _fact("Variant", ", ".join(provenance.variant)),
        _fact("Engine", provenance.engine),
        _fact("Device", _device(provenance)),
        _fact("Seeds", _pairs(provenance.seeds)),
        _fact("Versions", _pairs(provenance.versions)),
        _fact(
            "Project commit",
            commit + (" with local changes" if commit and git.get("dirty") else ""),
            code=True,
        ),
        _fact("Started", provenance.started),
        _fact("Finished", provenance.finished),
        _fact("Time taken", _time_taken(provenance)),
        _fact("Run folder", f"{run.folder.parent.name}/{run.folder.name}", code=True),
    ]


def _fact(name: str, value: object, code: bool = False) -> dict[str, Any]:
    return {"name": name, "value": fields.text(value), "code": code}


def _time_taken(provenance: Provenance) -> str:
    """From started to finished, loading and all; nothing where these are no times."""
    try:
        start, end = (datetime.fromisoformat(one) for one in (provenance.started, provenance.finished))
        seconds = (end - start).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return ""
    return f"{seconds:,.0f} s" if seconds >= 0 else ""


def _device(provenance: Provenance) -> str:
    threads = provenance.threads
    return fields.text(provenance.device) + (f", {threads} threads" if threads is not None else "")


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {words}" for name, value in values.items() if (words := fields.text(value)))
