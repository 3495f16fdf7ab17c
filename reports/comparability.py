"""What sets two runs apart besides the model: data, prompts, docs and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        mine, theirs = (run.record["data"]["tasks"].get(task) for run in (first, second))
        if not _same_data(mine, theirs):
            found.setdefault("data", []).append(task)
        _, _, differ = aligned(first, second, task)
        if differ:
            found.setdefault("prompts", []).append(f"{task} ({differ} docs)")
        if set(first.columns(task)["doc_id"]) != set(second.columns(task)["doc_id"]):
            found.setdefault("docs", []).append(task)
    result = {code: f"other {code} in {_listed(tasks)}" for code, tasks in found.items()}
    kinds = [run.record["data"]["source"] for run in (first, second)]
    if (kinds[0] == "smoke") != (kinds[1] == "smoke"):
        result["data"] = f"data source {kinds[0]} against {kinds[1]}"
    sides = {
        "limit": [run.record["limit"] for run in (first, second)],
        "variant": [sorted(map(str, run.record["provenance"]["variant"])) for run in (first, second)],
        "chat": [run.model["chat"] for run in (first, second)],
        "dtype": [run.model["dtype"] for run in (first, second)],
        "quantization": [run.model["quantization"] for run in (first, second)],
        "template": [run.record["provenance"].get("chat_template_sha256") for run in (first, second)],
        "engine": [run.record["provenance"].get("engine") for run in (first, second)],
        "device": [run.record["provenance"].get("device") for run in (first, second)],
    }
    for code, (one, two) in sides.items():
        if one != two:
            name = "chat template" if code == "template" else code
            result[code] = f"{name} {_said(one)} against {_said(two)}"
    if changed := _versions(first, second):
        result["versions"] = f"versions: {changed}"
    if "limit" in result and "docs" in result:
        del result["docs"]  # what another limit explains
    return [Mismatch(code, result[code]) for code in (*SETTINGS, *CIRCUMSTANCES) if code in result]


def _same_data(first: Any, second: Any) -> bool:
    """Same file contents where both runs have hashes, else same revision, else as many rows."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    one, two = first.get("sha256"), second.get("sha256")
    if isinstance(one, Mapping) and isinstance(two, Mapping) and one and two:
        return sorted(map(str, one.values())) == sorted(map(str, two.values()))
    if first.get("revision") and second.get("revision"):
        return bool(first["revision"] == second["revision"])
    return bool(first.get("rows") == second.get("rows"))


def _versions(first: Run, second: Run) -> str:
    sides = [run.record["provenance"].get("versions") for run in (first, second)]
    one, two = (side if isinstance(side, Mapping) else {} for side in sides)
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
