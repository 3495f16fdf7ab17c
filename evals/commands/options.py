"""What every command's options share: an option that is given does something, or one line says why it does not.

A command turns argparse's namespace into one frozen dataclass; nothing below this room sees the namespace. Options
whose default is None tell "given" from "left out"; the defaults themselves are the dataclasses'.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

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


def require_place(flag: str, path: Path | None) -> None:
    """Raises UserError for a file that could not be written because its folder is missing, before any work is done."""
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{flag}: cannot write '{path}': there is no folder '{path.parent}'")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that refuses an option which is given twice."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given: set[str] = set()
        for name in (None, "store"):
            self.register("action", name, Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As always, each time from the beginning."""
        self.given.clear()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises UserError instead of printing the usage."""
        raise UserError(f"{message} (see '{self.prog} --help')")


class Once(argparse.Action):
    """Stores an option's value; a second one would silently replace the first."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        """Stores the value, or has the parser refuse it."""
        if flag is not None and self.dest in parser.given:
            parser.error(f"{flag} is given twice: give it once")
        parser.given.add(self.dest)
        setattr(namespace, self.dest, values)


def parser_of(module: Any, program: str, epilog: str | None = None) -> Parser:
    """The parser of a command's module: its docstring, its options, and --debug."""
    parser = Parser(
        prog=program,
        description=(module.__doc__ or "").strip().split("\n\n")[0],
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if "--debug" not in parser._option_string_actions:
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
