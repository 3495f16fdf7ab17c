"""The exception types for what a user can cause, and the hint for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

EXIT_OK, EXIT_USAGE, EXIT_ROWS_MISSING = 0, 2, 3


class UserError(Exception):
    """Printed as one line (what was wrong, where, what to do), exit code 2, no traceback unless --debug."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class RowUnavailable(UserError):
    """A row cannot be had here (no data, or a back end that cannot score it): shown with this reason; others go on."""


def first_of(error: ValidationError) -> str:
    """What a model of pydantic found first: where, and what is wrong."""
    first = error.errors()[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint such as "did you mean 'piqa'?", or the whole list when nothing is near."""
    lower = {item.lower(): item for item in reversed(known)}  # of equal ones, the first
    near = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f"'{lower[item]}'" for item in near) + "?"
    return "known: " + ", ".join(known)
