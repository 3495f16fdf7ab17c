"""Fields of a run log that may hold anything: whatever stands there, a page gets what it expects or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def part(value: Any, *keys: str) -> Mapping[str, Any]:
    """The object at the end of a path of keys; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def text(value: Any) -> str:
    """A text or a plain number as text; empty for anything else."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def texts(value: Any) -> list[str]:
    """The texts of a list; empty for anything else."""
    return [one for one in map(text, value) if one] if isinstance(value, list) else []


def count(value: Any) -> int | None:
    """A whole number, zero or more, that can be counted (below 10 to the 15th), or None."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 10**15 else None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**1023:
        return None
    return float(value)


def thousands(value: Any) -> str:
    """A whole number with separators; empty for anything else."""
    known = count(value)
    return "" if known is None else f"{known:,}"
