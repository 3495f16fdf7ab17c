"""Reads run.json and checks its shape (results/README.md): keys, types, finite numbers, no way out of the
folder.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from evals.core.errors import UserError

SCHEMA_VERSION = 1
SUITES = ("base", "instruct")
SOURCES = ("hub", "folder", "smoke")
MAX_JSON_BYTES = 64 << 20

_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "model.name": (str,),
    "model.source": (str,),
    "model.revision": (str, type(None)),
    "model.fingerprint": (str, type(None)),
    "model.dtype": (str, type(None)),
    "model.chat": (bool,),
    "model.quantization": (str, type(None)),
    "model.card_column": (str, type(None)),
    "suite": (str,),
    "limit": (int, type(None)),
    "data.source": (str,),
    "data.tasks": (dict,),
    "tasks": (dict,),
    "rows": (list,),
    "provenance": (dict,),
    "provenance.variant": (list,),
    "provenance.prompt_hashes": (dict,),
    "timing": (dict,),
}


def refuse(folder: Path, what: str) -> NoReturn:
    """The one line for a folder that cannot be used."""
    raise UserError(f"'{folder}' cannot be used: {what}; measure again, or give another run")


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _constant(text)


def read_record(folder: Path) -> dict[str, Any]:
    """The content of a run folder's run.json, checked. Raises UserError, one line."""
    path = inside(folder, "run.json")
    if path.stat().st_size > MAX_JSON_BYTES:
        refuse(folder, f"run.json is larger than {MAX_JSON_BYTES >> 20} MB")
    try:
        record = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        refuse(folder, f"run.json is not valid JSON ({str(error)[:120]})")
    if not isinstance(record, dict):
        refuse(folder, "run.json holds no object")
    _check_record(folder, record)
    return record


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the folder; refuses what is missing or leads elsewhere."""
    path = folder / name
    if not path.is_file():
        refuse(folder, f"it has no {name}")
    if not path.resolve().is_relative_to(folder.resolve()):
        refuse(folder, f"{name} leads out of the folder")
    return path


def _check_record(folder: Path, record: dict[str, Any]) -> None:
    version = record.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        refuse(folder, f"its schema_version is {version!r:.40}, this program reads {SCHEMA_VERSION}")
    for name, types in _FIELDS.items():
        value: Any = record
        for key in name.split("."):
            if not isinstance(value, dict) or key not in value:
                refuse(folder, f"run.json has no '{name}'")
            value = value[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            refuse(folder, f"'{name}' in run.json is of a wrong type")
    if record["suite"] not in SUITES:
        refuse(folder, f"the suite {record['suite']!r:.40} is unknown")
    if record["data"]["source"] not in SOURCES:
        refuse(folder, f"the data source {record['data']['source']!r:.40} is unknown")
    if not record["tasks"] and not record["rows"]:
        refuse(folder, "it holds no task and no row")
    for task, entry in record["tasks"].items():
        _check_task_record(folder, task, entry)
    labels = [_check_row(folder, row) for row in record["rows"]]
    if len(set(labels)) < len(labels):
        refuse(folder, "a row stands in run.json twice")


def _check_task_record(folder: Path, task: str, entry: Any) -> None:
    if not re.fullmatch(r"[a-z0-9_]{1,100}", task):
        refuse(folder, f"{task!r:.60} is no name of a task")
    good = isinstance(entry, dict) and is_count(entry.get("n")) and isinstance(entry.get("metrics"), dict)
    if not good:
        refuse(folder, f"the entry of task '{task}' needs n and metrics")
    for metric in entry["metrics"].values():
        if not isinstance(metric, dict) or not is_number(metric.get("value")):
            refuse(folder, f"a metric of task '{task}' has no finite value")


def _check_row(folder: Path, row: Any) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("label"), str):
        refuse(folder, "a row has no label")
    where = f"row {row['label']!r:.60}"
    if not isinstance(row.get("metric"), str) or not is_count(row.get("n")):
        refuse(folder, f"{where} needs metric and n")
    if not all_strings(row.get("tasks")):
        refuse(folder, f"{where} needs a list of tasks")
    if not (row.get("value", 0) is None or is_number(row.get("value"))):
        refuse(folder, f"the value of {where} is no finite number")
    notes = row.get("notes", [])
    if not isinstance(notes, list) or not all(
        isinstance(note, dict) and all_strings([note.get("code"), note.get("text")]) for note in notes
    ):
        refuse(folder, f"the notes of {where} are not pairs of code and text")
    return row["label"]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    if not isinstance(value, _NUMBER) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1023  # larger is no float


def is_count(value: Any) -> bool:
    """Whether a JSON value is a whole number, zero or more."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def all_strings(values: Any) -> bool:
    """Whether a JSON value is a list of strings."""
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
