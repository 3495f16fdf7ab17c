"""What every command's options share: an option that is given does something, or one line says why it does not.

A command turns argparse's namespace into one frozen dataclass; nothing below this room sees the namespace. Options
whose default is None tell "given" from "left out"; the defaults themselves are the dataclasses'.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from evals.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Use(Generic[T]):
    """`flag` does something only where `when(options)` holds; elsewhere it is refused: "FLAG OTHERWISE"."""

    flag: str
    when: Callable[[T], object]
    otherwise: str


def refuse_unused(args: argparse.Namespace, options: T, uses: Iterable[Use[T]]) -> None:
    """Raises UserError for the first given option that would be dropped."""
    for use in uses:
        if is_given(args, use.flag) and not use.when(options):
            raise UserError(f"{use.flag} {use.otherwise}")


def is_given(args: argparse.Namespace, flag: str) -> bool:
    """Whether the command line has `flag`; "--no-plan" is the option plan with the value False."""
    name = flag.removeprefix("--").replace("-", "_")
    if not hasattr(args, name):
        return getattr(args, name.removeprefix("no_")) is False
    value = getattr(args, name)
    return value is not None and value is not False and value != []


def given(args: argparse.Namespace, *names: str, prefix: str = "") -> dict[str, Any]:
    """{name: value} of those options that are given (as prefix + name), for a dataclass that has the defaults."""
    return {name: value for name in names if (value := getattr(args, prefix + name)) is not None}


def split_names(flag: str, texts: str | Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    """Names given by comma; None where the option is left out. Raises UserError where it names nothing."""
    if texts is None or texts == []:
        return None
    parts = [texts] if isinstance(texts, str) else texts
    found = tuple(name.strip() for text in parts for name in text.split(",") if name.strip())
    if not found:
        raise UserError(f"{flag} names no {what}")
    return found


def require_positive(args: argparse.Namespace, *flags: str) -> None:
    """Raises UserError for a number that is given and not above zero."""
    for flag in flags:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if value is not None and not value > 0:
            raise UserError(f"{flag} {value}: it must be positive")
