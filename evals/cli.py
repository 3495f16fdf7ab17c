"""The command line: which module answers which command, and what a user sees when something is wrong.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import signal
import sys
from typing import Any

import evals
from evals.commands.options import Parser
from evals.core.errors import EXIT_USAGE, UserError, nearest

COMMANDS = {
    "run": "measure a model (the default command)",
    "report": "print a run's tables again, in many formats",
    "curve": "how the rows grow over a training's checkpoints: tables and a picture",
    "compare": "what differs between two runs, and whether it is real",
    "gate": "stop a candidate that is worse than its baseline (for CI)",
    "bless": "make a run the baseline of a gate",
    "leaderboard": "rank all runs; markdown, CSV and a static site",
    "import": "read logs of lm-eval or inspect as runs, marked as theirs",
    "judge": "judge a run's MT-Bench answers",
    "prompts": "show the exact prompts and token boundaries of a task",
    "models": "list the models known by name",
    "tasks": "list the suites, their rows and tasks",
    "cache": "what the store of finished requests holds; clear it",
    "snapshot": "copy every benchmark from the hub to a folder, for offline use",
}
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. See `python run_evals.py --help`."""
    argv = sys.argv[1:] if argv is None else argv
    _terminate_like_interrupt()
    try:
        module, options = parse(argv)
        return int(module.main(options))
    except KeyboardInterrupt:
        again = shlex.join(["python", "run_evals.py", *argv])
        with contextlib.suppress(OSError):  # a closed terminal hears nothing
            print(f"\nstopped; what was finished is kept. Go on with: {again}", file=sys.stderr, flush=True)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output went away (such as `head`): not an error of ours
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in argv:
            raise
        print("error: " + " ".join(_told(error).split()), file=sys.stderr)
        return EXIT_USAGE


def _told(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory: use a smaller model, --dtype bfloat16, or another machine"
    what, reason = f"unexpected {type(error).__name__}", str(error)[:300]
    if isinstance(error, OSError):
        what = f"cannot use '{str(error.filename)[:200]}'" if error.filename else what
        reason = error.strerror or str(error)
    return f"{what}: {reason} (run again with --debug for where)"


def parse(argv: list[str]) -> tuple[Any, Any]:
    """The command's module and its options, unchecked. Raises UserError."""
    name, rest = _command(argv)
    module, parser = make_parser(name)
    _refuse_empty(rest)
    return module, parser.options(rest)


def _command(argv: list[str]) -> tuple[str, list[str]]:
    if argv and argv[0] in COMMANDS:
        return argv[0], argv[1:]
    if argv and not argv[0].startswith("-"):
        raise UserError(f"unknown command '{argv[0]}': {nearest(argv[0], list(COMMANDS))}")
    return "run", argv


def _refuse_empty(words: list[str]) -> None:
    """A variable of a script that was not set is no choice. Raises UserError for an empty word."""
    for before, word in zip(["", *words], words, strict=False):
        if not word or re.fullmatch(r"--[\w-]+=", word):
            raise UserError(f"empty value after '{word or before}': give one, or leave it out")


def make_parser(name: str) -> tuple[Any, Parser]:
    """A command's module and its parser."""
    module = importlib.import_module(f"evals.commands.{name}")
    program = "run_evals.py" if name == "run" else f"run_evals.py {name}"
    lines = [f"  {command:<12} {text}" for command, text in COMMANDS.items()]
    epilog = "commands (each with its own --help):\n" + "\n".join(lines) if name == "run" else None
    about = str(module.__doc__).split("\n\n")[0]
    parser = Parser(module.Options, program, about, epilog)
    if name == "run":
        parser.add_argument("--version", action="version", version=f"smol-evals {evals.__version__}")
    return module, parser


def _terminate_like_interrupt() -> None:
    """A polite kill ends like Ctrl-C: what is done is kept."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not the main thread: a test or an embedding program
        for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
            if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup, and to stay so
                signal.signal(number, stop)
