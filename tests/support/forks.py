"""Commands as processes of their own, started in milliseconds: forks of a server that has everything imported.

A fresh process imports for seconds, and reads a GGUF file for many more; tests that start a command dozens of times
cannot wait for that. The server imports once (and, on request, loads weights once: they only are read). Beyond that
each fork is the whole command, from its arguments to its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("evals.cli", "evals.commands.run", "evals.run.loop", "evals.adapters.local", "evals.models.loading",
           "evals.run.samples", "evals.run.log", "reports.card", "reports.runs", "lighteval.tasks.requests",
           "pyarrow.parquet", "tasks")  # fmt: skip


class Forks:
    """The server, from a test's side. ``weights``: a model to load once, for every fork."""

    def __init__(self, weights: Path | None = None) -> None:
        settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks", str(weights or "")],
            cwd=ROOT,
            env=os.environ | settings,  # one thread: a fork must not inherit a pool of them
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, arguments: list[str], log: Path, hook: str = "", *hook_arguments: Any) -> int:
        """Runs the command line, output in ``log``; its process id. ``hook``: "module:function", called first."""
        return int(self._ask({"start": arguments, "log": str(log), "hook": hook, "given": hook_arguments}))

    def wait(self, pid: int) -> int:
        """Waits for the process; its exit code, or minus the signal that ended it."""
        return int(self._ask({"wait": pid}))

    def run(self, arguments: list[str], log: Path, hook: str = "", *hook_arguments: Any) -> int:
        """Start and wait."""
        return self.wait(self.start(arguments, log, hook, *hook_arguments))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server of forks has ended"
        return json.loads(line)

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Looks again and again until ``condition()`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.002)


def _serve(weights: str) -> None:
    import torch

    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
    if weights:
        _load_once(Path(weights))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print('"ready"', file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _, status = os.waitpid(question["wait"], 0)
            print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            answers.close()
            _command(question)
        print(pid, file=answers, flush=True)


def _command(question: dict[str, Any]) -> None:
    code = 70
    try:
        log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if question["hook"]:
            module, function = question["hook"].split(":")
            getattr(importlib.import_module(module), function)(*question["given"])
        from evals.cli import main

        code = main(question["start"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def _load_once(path: Path) -> None:
    """Every fork gets the server's copy of these weights; other weights are loaded as always."""
    import torch

    from evals.models import loading

    original = loading.load
    kept = original(path, torch.device("cpu"), "float32")

    def load(wanted: Path, device: Any, dtype: str) -> Any:
        if (wanted, device.type, dtype) == (path, "cpu", "float32"):
            return kept
        return original(wanted, device, dtype)

    loading.load = load


if __name__ == "__main__":
    _serve(sys.argv[1])
