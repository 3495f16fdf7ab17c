"""Options said once: a command's options are a frozen dataclass, and each field says all that there is to its option.

From the fields come the parser, the help pages, the checks and the object that a command works with; from Python the
same object is built without words. An option that is given does something, or one line says why it does not: where it
matters whether it is given, its default is None.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from evals.core.errors import UserError
from reports.margins import POINTS, Tolerance

T = TypeVar("T")
Need = tuple[Callable[[Any], object], str]
"""An option does something only where this holds of all options; elsewhere it is refused: "FLAG WORDS"."""

KINDS: dict[str, Any] = {"int": int, "float": float, "Path": Path}
OURS = ("flag", "group", "either", "names", "check", "needs")


def option(help: str, metavar: str | None = None, default: Any = None, **said: Any) -> Any:
    """A field that is an option; its annotation says what is read: a bool is a switch.

    `flag`: another than the field's name makes. `group`: its heading. `either`: with its neighbours of that kind, one
    may be given at most. `names`: what is named by comma. `check(flag, value)` refuses a value. `needs`: see Need. The
    rest is argparse's.
    """
    default = MISSING if said.get("required") else default
    return field(default=default, metadata={"help": help, "metavar": metavar, **said})


def switch(help: str, **more: Any) -> Any:
    """A field that is a switch."""
    return option(help, default=False, **more)


def argument(help: str, metavar: str | None = None, default: Any = MISSING, **more: Any) -> Any:
    """A field that is given by its place."""
    return option(help, metavar, default, flag="", **more)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command was asked for: its options derive from this."""

    epilog: ClassVar[str | None] = None

    def resolve(self) -> None:
        """What the options come to, as far as it can be refused before the work begins. Raises UserError."""

    def check(self) -> None:
        """Refuses what is wrong, and any given option that would be dropped. Raises UserError."""
        self.resolve()
        for one in dataclasses.fields(self):
            value, flag, said = getattr(self, one.name), _flag(one), one.metadata
            if value is None or value is False:
                continue
            for holds, words in said.get("needs", ()):
                if not holds(self):
                    raise UserError(f"{flag} {words}")
            if "names" in said and not value:
                raise UserError(f"{flag} names no {said['names']}")
            choices = said.get("choices") or (value,)
            if isinstance(value, str) and value not in choices:  # from Python: argparse lets none through
                raise UserError(f"{flag} '{value}': choose from {', '.join(choices)}")
            if "check" in said:
                said["check"](flag, value)


def part(kind: type[T], options: Any, **more: Any) -> T:
    """A dataclass of another room, from the options of the same names that are given; its own defaults for others."""
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    found = {name: getattr(options, name, None) for name in names} | more
    return kind(**{name: value for name, value in found.items() if value is not None})


# --- what several commands share ---

DTYPES = ("float32", "bfloat16", "float16")
MARGIN: dict[str, Any] = {
    "help": "a difference within it counts as none: points of percent, and alike for rows of another unit "
    f"(default: {POINTS:g})",
    "metavar": "POINTS",
    "check": lambda flag, points: Tolerance(points=points),
}
ALPHA: dict[str, Any] = {
    "help": "error rate of the tests, after Holm's correction (default: 0.05)",
    "metavar": "P",
    "check": lambda flag, alpha: Tolerance(alpha=alpha),
}


def tolerance(options: Any) -> Tolerance:
    """What --margin and --alpha come to."""
    return part(Tolerance, options, points=options.margin)


def store_path(output: Path) -> Path:
    """Where an output folder keeps the finished requests of its runs."""
    return output / ".cache" / "requests.sqlite"


# --- checks of a value ---


def positive(flag: str, value: float) -> None:
    """Raises UserError for a number that is not above zero."""
    if not value > 0:
        raise UserError(f"{flag} {value}: it must be positive")


def at_least_one(flag: str, value: int) -> None:
    """Raises UserError for a count of nothing."""
    if value < 1:
        raise UserError(f"{flag} {value}: give at least 1")


def place(flag: str, path: Path) -> None:
    """Raises UserError for a file that could not be written because its folder is missing, before any work is done."""
    if not path.parent.is_dir():
        raise UserError(f"{flag}: cannot write '{path}': there is no folder '{path.parent}'")


def picture(flag: str, path: Path) -> None:
    """Raises UserError for a picture of a kind that cannot be drawn."""
    from reports.render.pictures import check_format

    check_format(path)


# --- the parser ---


class Parser(argparse.ArgumentParser):
    """The parser of a command's options: errors are one line, and an option that is given twice is refused."""

    def __init__(self, kind: type[Asked], program: str, about: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=program, description=about, epilog=epilog or kind.epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self.kind, self.given = kind, set[str]()
        for name in (None, "store"):
            self.register("action", name, Once)
        groups: dict[str | None, Any] = {None: self}
        either: Any = None
        for one in dataclasses.fields(kind):
            name = one.metadata.get("group")
            if name not in groups:
                groups[name] = self.add_argument_group(name)
            group = groups[name]
            if "either" in one.metadata:
                group = either = either or group.add_mutually_exclusive_group()
            group.add_argument(_flag(one) or one.name, **_parsing(one))
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def options(self, words: Sequence[str]) -> Any:
        """The options that the words mean, unchecked. Raises UserError."""
        self.given.clear()
        values = vars(self.parse_args(words))
        del values["debug"]
        return self.kind(**{k: tuple(one) if isinstance(one, list) else one for k, one in values.items()})

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


def _flag(one: dataclasses.Field[Any]) -> str:
    return str(one.metadata.get("flag", f"--{one.name.replace('_', '-')}"))


def _parsing(one: dataclasses.Field[Any]) -> dict[str, Any]:
    """argparse's words for a field."""
    kind = str(one.type).removesuffix(" | None")
    found: dict[str, Any] = {} if one.default is MISSING else {"default": one.default}
    if _flag(one):
        found["dest"] = one.name
    if kind == "bool":
        found["action"] = "store_true"
    elif kind in KINDS or "names" in one.metadata:
        found["type"] = KINDS.get(kind, _by_comma)
    said = {name: words for name, words in one.metadata.items() if name not in OURS and words is not None}
    return found | said


def _by_comma(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
