"""Reading a field of a data row: the value as the protocol expects it, or a ValueError that says why not.

The caller knows the file and the row's number; the messages here name the column and what is wrong with it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any


def field(row: Mapping[str, Any], column: str) -> Any:
    """The value in ``column``; ValueError when the row has no such column."""
    if column not in row:
        raise ValueError(f"no column '{column}'")
    return row[column]


def is_text(value: object) -> bool:
    """True for a string that can be encoded (JSON can spell half of a surrogate pair)."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def text(row: Mapping[str, Any], column: str, *, blank: bool = False) -> str:
    """The string in ``column``, unchanged; ValueError when it is no text or, unless allowed, blank."""
    value = field(row, column)
    if not is_text(value):
        raise ValueError(f"'{column}' is not text: {short(value)}")
    if not blank and not value.strip():
        raise ValueError(f"'{column}' is empty")
    return str(value)


def texts(row: Mapping[str, Any], column: str, *, at_least: int = 1, blank: bool = False) -> list[str]:
    """The list of strings in ``column``; ValueError when too short or, unless allowed, one is blank."""
    values = field(row, column)
    if not isinstance(values, list | tuple):
        raise ValueError(f"'{column}' is not a list: {short(values)}")
    if len(values) < at_least:
        raise ValueError(f"'{column}' holds {len(values)} of at least {at_least} values")
    for value in values:
        if not is_text(value) or not (blank or value.strip()):
            raise ValueError(f"'{column}' holds {short(value)} where text is needed")
    return list(values)


def integer(row: Mapping[str, Any], column: str) -> int:
    """The whole number in ``column``, also when it is written as text."""
    value = field(row, column)
    try:
        if isinstance(value, bool):
            raise TypeError
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        raise ValueError(f"'{column}' is not a whole number: {short(value)}") from None


def label(row: Mapping[str, Any], column: str, n_choices: int, *, first: int = 0) -> int:
    """The gold's index from 0, where ``column`` counts from ``first``; ValueError when out of range."""
    value = integer(row, column)
    if not first <= value < first + n_choices:
        raise ValueError(f"'{column}' is {short(value)}, out of range: {first} to {first + n_choices - 1}")
    return value - first


def short(value: object) -> str:
    """A value in a message, cut."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
