"""A command line's words as the options that a command works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from evals import cli

T = TypeVar("T")


def parse(kind: type[T], words: Sequence[str]) -> T:
    """The options of the command whose they are, unchecked."""
    return cli.parse([kind.__module__.rsplit(".", 1)[-1], *words])[1]
