"""Writes a report where the user asked for it."""

from __future__ import annotations

from pathlib import Path

from evals.core.errors import UserError


def print_or_write(text: str, output: Path | None) -> None:
    """Prints a report, or writes it to `output`. Raises UserError."""
    if output is None:
        print(text, end="")
    else:
        write(output, text)


def write(path: Path, text: str) -> None:
    """Writes a report; a UserError when that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error
