"""Every Eval Ever records (schema 0.3.0): one a row, its docs beside it, in the folders of that project's datastore.

`data/<row>/<developer>/<model>/<uuid>.json` and `<uuid>_samples.jsonl`. The same run gives the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evals.core.errors import UserError
from evals.core.metric import Metric
from reports.render.tables import one_line
from reports.runs import RowResult, Run

VERSION = "0.3.0"
Json = dict[str, Any]


def write(runs: list[Run], folder: Path) -> list[Path]:
    """Writes the records of all rows that have a value; the aggregate files' paths. Raises UserError."""
    written = []
    for run in runs:
        for row in run.rows:
            if row.value is None:
                continue
            aggregate, lines = record(run, row)
            path = folder / _place(run, row, ".json")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if lines:
                    (folder / _place(run, row, "_samples.jsonl")).write_bytes(lines)
                path.write_text(_dump(aggregate) + "\n", encoding="utf-8")
            except OSError as error:
                raise UserError(f"cannot write below '{folder}': {error.strerror}") from error
            written.append(path)
    if not written:
        raise UserError("no record to write: give a run that has a row with a value")
    return written


def record(run: Run, row: RowResult) -> tuple[Json, bytes]:
    """A row's aggregate record, and its docs as JSON lines: none of a judged row, or of a baseline without texts."""
    has_docs = not row.metric.judged and not run.log.blessed_from
    lines = b"".join(_dump(one).encode() + b"\n" for one in _docs(run, row)) if has_docs else b""
    aggregate: Json = {
        "schema_version": VERSION,
        "evaluation_id": _evaluation(run, row),
        "evaluation_timestamp": run.log.provenance.finished,
        "retrieved_timestamp": _epoch(run),
        "source_metadata": {
            "source_name": "smol-evals",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": _library(run),
        "model_info": _model_info(run),
        "evaluation_results": [_result(run, row)],
    }
    if lines:
        aggregate["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": _place(run, row, "_samples.jsonl").as_posix(),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(lines).hexdigest(),
            "total_rows": lines.count(b"\n"),
        }
    return aggregate, lines


def _result(run: Run, row: RowResult) -> Json:
    interval, metric = row.interval, row.metric
    uncertainty: Json = {"num_samples": row.n}
    if row.stderr is not None:
        uncertainty["standard_error"] = {"value": row.stderr, "method": "analytic"}
    if interval is not None:
        method = "Wilson for one task of right and wrong docs, else normal"
        level = {"confidence_level": 0.95, "method": method}
        uncertainty["confidence_interval"] = {"lower": interval[0], "upper": interval[1], **level}
    prompts, settings = "chat" if run.model.chat else "plain", run.log.tasks[row.tasks[0]].settings
    details = {"suite": run.suite, "prompts": prompts, "tasks": ", ".join(row.tasks)}
    known = [name for name in ("shots", "max_new_tokens") if settings.get(name) is not None]
    details |= {name: str(settings[name]) for name in known}
    details |= {f"note: {note.code} {i}": one_line(note.text) for i, note in enumerate(row.notes, 1)}
    return {
        "evaluation_result_id": f"{_evaluation(run, row)}/{metric.name}",
        "evaluation_name": one_line(row.label),
        "source_data": _source(run, row),
        "metric_config": _metric(metric),
        "score_details": {"score": row.value, "details": details, "uncertainty": uncertainty},
    }


def _metric(metric: Metric) -> Json:
    # a bound that is none has a word of its own there
    low, high = (
        one * metric.scale if math.isfinite(one) else "Infinity" if one > 0 else "-Infinity"
        for one in (metric.low, metric.high)
    )
    return {
        "metric_id": metric.name,
        "metric_name": metric.words,
        "metric_unit": metric.unit,
        "lower_is_better": not metric.higher_is_better,
        "score_type": "continuous",
        "min_score": low,
        "max_score": high,
    }


def _source(run: Run, row: RowResult) -> Json:
    """Where the docs come from: the hub's data set where it is one, and they are its rows."""
    found = [run.log.data.tasks.get(task) for task in row.tasks]
    named = {(one.repo, one.split) for one in found if one is not None and one.repo}
    name = {"dataset_name": one_line(row.label)}
    if run.smoke or len(named) != 1:
        return name | {"source_type": "other"}
    repo, split = named.pop()
    source = name | {"source_type": "hf_dataset", "hf_repo": one_line(str(repo)), "samples_number": row.n}
    return source | ({"hf_split": one_line(split)} if split else {})


def _library(run: Run) -> Json:
    """Whose numbers they are: of an imported log, the other harness's."""
    versions = run.log.provenance.versions
    if not run.foreign:
        return {"name": "smol-evals", "version": versions.get("project") or "unknown"}
    harness = run.model.source.split(":")[0]
    details = {"imported_by": f"smol-evals {versions.get('project') or ''}".strip()}
    return {"name": harness, "version": versions.get(harness) or "unknown", "additional_details": details}


def _model_info(run: Run) -> Json:
    model, server = run.model, run.model.source.startswith("endpoint:")
    known = {name: getattr(model, name) for name in ("dtype", "quantization", "fingerprint", "revision")}
    details = {name: one_line(value) for name, value in known.items() if value is not None}
    developer, name = _identity(run)
    return {
        "name": one_line(run.name),
        "id": f"{developer}/{name}",
        "developer": developer,
        "inference_engine": {"name": one_line(run.log.provenance.engine or "unknown")},
        "additional_details": {
            "deployment_type": "unknown" if server or run.foreign else "self_deployed",
            "model_availability": "unknown" if server or run.foreign else "open_weights",
            **details,
        },
    }


def _docs(run: Run, row: RowResult) -> Iterator[Json]:
    """One record a doc that has a score."""
    common = {
        "schema_version": VERSION,
        "evaluation_id": _evaluation(run, row),
        "model_id": "/".join(_identity(run)),
        "evaluation_name": one_line(row.label),
        "evaluation_result_id": f"{_evaluation(run, row)}/{row.metric.name}",
        "interaction_type": "single_turn",
    }
    for task in row.tasks:
        batches = run.table(task).to_batches(max_chunksize=2000)
        for line in (line for batch in batches for line in batch.to_pylist()):
            if (score := row.metric.doc_value(line)) is not None:
                yield {**common, "sample_id": f"{task}/{line['doc_id']}", **_doc(row.metric, line, score)}


def _doc(metric: Metric, line: Mapping[str, Any], score: float) -> Json:
    choices, gold = line.get("choices"), line.get("gold")
    if choices:
        said = choices[line["prediction"]]
        reference = [choices[gold]]
    else:
        said, reference = line.get("output") or "", [str(one) for one in gold or ()]
    raw = line["prompt"]
    attributed = {"turn_idx": 0, "source": "output.raw", "extracted_value": said, "is_terminal": True}
    best = metric.high if metric.higher_is_better else metric.low
    return {
        "sample_hash": hashlib.sha256("\n".join([raw, *reference]).encode()).hexdigest(),
        "input": {"raw": raw, "reference": reference, "choices": choices or None},
        "output": {"raw": [said]},
        "answer_attribution": [{**attributed, "extraction_method": metric.name}],
        "evaluation": {"score": score, "is_correct": score == best},
    }


def _identity(run: Run) -> tuple[str, str]:
    """(developer, model) as the hub names it, else (local, its name)."""
    source, _, name = run.model.source.partition(":")
    developer, _, model = name.partition("/") if source == "hub" and "/" in name else ("local", "", run.name)
    return _component(developer), _component(model)


def _evaluation(run: Run, row: RowResult) -> str:
    return f"{_component(row.label)}/{'/'.join(_identity(run))}/{_epoch(run)}"


def _epoch(run: Run) -> str:
    """When the run ended, in Unix seconds."""
    try:
        ended = datetime.fromisoformat(run.log.provenance.finished)
    except ValueError:
        return "0"
    return str(int((ended if ended.tzinfo else ended.replace(tzinfo=UTC)).timestamp()))


def _place(run: Run, row: RowResult, ending: str) -> Path:
    """The record's path in the datastore; its name is made of what it says, so it is the same each time."""
    said = [run.log.dump().decode("utf-8", "replace"), row.label]
    name = uuid.UUID(bytes=hashlib.sha256(json.dumps(said).encode()).digest()[:16], version=4)
    return Path("data", _component(row.label), *_identity(run), f"{name}{ending}")


def _component(text: str) -> str:
    """A folder's name on every system, and none that the datastore keeps for itself."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:80] or "unnamed"
    return f"{name}-" if name == "data" else name


def _dump(data: Json) -> str:
    """JSON on one line in ASCII: some line ends of Unicode would cut a line in two."""
    return json.dumps(data, allow_nan=False)
