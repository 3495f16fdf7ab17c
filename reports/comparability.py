"""What sets two runs apart besides the model: data, prompts, docs and settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evals.core.runlog import TaskDataLog
from reports.runs import Run, aligned

SETTINGS = ("data", "prompts", "docs", "limit", "variant", "chat", "dtype", "quantization")
"""Differences that make a comparison of numbers unfair; `--allow` of the gate names them."""
CIRCUMSTANCES = ("template", "engine", "device", "versions")
"""Differences that should not change numbers, but are worth knowing."""


@dataclass(frozen=True)
class Mismatch:
    """One difference: its code (see SETTINGS and CIRCUMSTANCES) and both sides in words."""

    code: str
    text: str


def mismatches(first: Run, second: Run) -> list[Mismatch]:
    """Every difference in settings or circumstances, each code once, in the order of the codes."""
    found: dict[str, list[str]] = {}
    shared = [task for task in first.tasks if task in second.tasks]
    for task in shared:
        mine, theirs = (run.log.data.tasks.get(task) for run in (first, second))
        if not _same_data(mine, theirs):
            found.setdefault("data", []).append(task)
        _, _, differ = aligned(first, second, task)
        if differ:
            found.setdefault("prompts", []).append(f"{task} ({differ} docs)")
        if set(first.columns(task)["doc_id"]) != set(second.columns(task)["doc_id"]):
            found.setdefault("docs", []).append(task)
    result = {code: f"other {code} in {_listed(tasks)}" for code, tasks in found.items()}
    if first.smoke != second.smoke:
        result["data"] = f"data source {first.log.data.source} against {second.log.data.source}"
    for code, of in _SIDES.items():
        one, two = of(first), of(second)
        if one != two:
            name = "chat template" if code == "template" else code
            result[code] = f"{name} {_said(one)} against {_said(two)}"
    if changed := _versions(first, second):
        result["versions"] = f"versions: {changed}"
    if "limit" in result and "docs" in result:
        del result["docs"]  # what another limit explains
    return [Mismatch(code, result[code]) for code in (*SETTINGS, *CIRCUMSTANCES) if code in result]


_SIDES: dict[str, Callable[[Run], Any]] = {
    "limit": lambda run: run.log.limit,
    "variant": lambda run: sorted(run.log.provenance.variant),
    "chat": lambda run: run.model.chat,
    "dtype": lambda run: run.model.dtype,
    "quantization": lambda run: run.model.quantization,
    "template": lambda run: run.log.provenance.chat_template_sha256,
    "engine": lambda run: run.log.provenance.engine,
    "device": lambda run: run.log.provenance.device,
}


def _same_data(first: TaskDataLog | None, second: TaskDataLog | None) -> bool:
    """Same file contents where both runs have hashes, else same revision, else as many rows."""
    if first is None or second is None:
        return False
    if first.sha256 and second.sha256:
        return sorted(first.sha256.values()) == sorted(second.sha256.values())
    if first.revision and second.revision:
        return first.revision == second.revision
    return first.rows == second.rows


def _versions(first: Run, second: Run) -> str:
    one, two = first.log.provenance.versions, second.log.provenance.versions
    names = [name for name in dict.fromkeys([*one, *two]) if one.get(name) != two.get(name)]
    return ", ".join(f"{name} {one.get(name)} against {two.get(name)}" for name in names)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)[:60]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
