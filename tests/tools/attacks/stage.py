"""What attacks share: how one is named, where it takes place, and what became of a command that was attacked.

An attack is a function: its docstring is its name, what it returns is the outcome in words, and an assertion that
fails says what came out instead of what is wanted. A pytest test that makes an attack already is named (tested.toml),
and run, not repeated.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forks import Forks
from tests.support.run_bench import Bench, write_data

Act = Callable[["Stage"], str]
ATTACKS: list[Attack] = []
GROUPS = ("store", "models", "data", "servers", "signals", "leaks")


class NotPossibleHere(Exception):
    """What this machine or account lacks for an attack."""


@dataclass(frozen=True)
class Attack:
    """`act` carries it out; or `test`, a pytest node id, does, and `says` what its passing means.

    `quick`: of a second or two, so that `make test` tries it.
    """

    group: str
    name: str
    act: Act | None = None
    test: str = ""
    says: str = ""
    quick: bool = False


def attack(group: str, quick: bool = False) -> Callable[[Act], Act]:
    """Makes the function an attack, named by its docstring."""

    def known(act: Act) -> Act:
        add(group, (act.__doc__ or "").strip().rstrip("."), act, quick)
        return act

    return known


def add(group: str, name: str, act: Act, quick: bool = False) -> None:
    """One more attack."""
    ATTACKS.append(Attack(group, name, act, quick=quick))


def tested() -> None:
    """The attacks of tested.toml, which tests make."""
    groups = tomllib.loads(Path(__file__).with_name("tested.toml").read_text("utf-8"))
    for group, entries in groups.items():
        for one in entries:
            ATTACKS.append(Attack(group, one["name"], test=f"tests/{one['test']}", says=one["says"]))


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (minus the signal that ended it), all that it printed, seconds."""

    code: int
    text: str
    seconds: float

    @property
    def line(self) -> str:
        """The one line of an error; fails if there are several, or a traceback."""
        assert "Traceback" not in self.text, self.text[-600:]
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, f"exit {self.code}, {len(lines)} error lines: {self.text[-600:]}"
        assert len(lines[0]) < 700, f"a line of {len(lines[0])} characters"
        return lines[0].removeprefix("error: ")

    def refused(self) -> str:
        """The outcome of a command that ended with one line and exit code 2."""
        assert self.code == 2, f"exit {self.code}: {self.text[-600:]}"
        assert "unexpected" not in self.line, self.line
        return f"refused: {self.line}"


@dataclass(frozen=True)
class Stage:
    """Where one attack takes place: a folder of its own, a tiny model, the server of forks."""

    forks: Forks
    model: Path
    folder: Path

    def bench(self, name: str = "results", model: Path | None = None) -> Bench:
        """Runs on a model (the tiny one) and the handful of docs, with an output folder of this name."""
        data = self.folder / "data"
        if not data.exists():
            write_data(data)
        return Bench(self.forks, model or self.model, data, self.folder / name)

    def copy(self, name: str) -> Path:
        """A copy of the model's folder, to be spoiled."""
        return Path(shutil.copytree(self.model, self.folder / name))

    def run(self, arguments: list[str], *hook: Any, seconds: float = 120, log: str = "log") -> Ended:
        """A command from its arguments to its exit code; one that takes longer than `seconds` hangs, and is killed."""
        place = self.folder / f"{log}.txt"
        place.unlink(missing_ok=True)
        start = time.monotonic()
        pid = self.forks.start(arguments, place, *hook)
        hangs = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
        hangs.start()
        code = self.forks.wait(pid)
        hung = not hangs.is_alive()
        hangs.cancel()
        assert not hung, f"it was still at work after {seconds:.0f} s"
        text = place.read_text(errors="replace") if place.exists() else ""
        return Ended(code, text, time.monotonic() - start)
