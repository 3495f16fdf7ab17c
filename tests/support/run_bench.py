"""Whole runs of the command on a tiny model, with a handful of docs: how tests start them, and hooks for the forks."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.forks import Forks

TASKS = "piqa,gsm8k"
PIQA = [
    {"goal": f"Open jar {n}", "sol1": "Twist the lid.", "sol2": f"Sing {n} songs.", "label": n % 2}
    for n in range(8)
]
GSM8K = [
    {"question": f"What is {n} plus {n}?", "answer": f"{n} and {n} make {2 * n}.\n#### {2 * n}"}
    for n in range(12)
]


NOTES = ("loading", "base,", "this model generates", "this model is scored")
ALL = 2 * len(PIQA) + 3  # requests: a choice each, an answer each


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder: Path) -> Path:
    """The handful of docs as a data folder."""
    write_jsonl(folder / "piqa" / "validation.jsonl", PIQA)
    write_jsonl(folder / "gsm8k" / "test.jsonl", GSM8K[:3])
    write_jsonl(folder / "gsm8k" / "train.jsonl", GSM8K)
    return folder


class Bench:
    """Runs the command on one model, data folder and output folder."""

    def __init__(self, forks: Forks, model: Path, data: Path, output: Path) -> None:
        self.forks, self.model, self.data, self.output = forks, model, data, output
        self.log = output.parent / f"{output.name}.log"
        self.hook: tuple[Any, ...] = ("tests.support.run_bench:short_answers",)

    def arguments(self, *options: str) -> list[str]:
        own = {
            "--model": "tiny", "--model-path": str(self.model), "--suite": "base", "--tasks": TASKS,
            "--data": str(self.data), "--output-dir": str(self.output), "--device": "cpu", "--dtype": "float32",
        }  # fmt: skip
        return [
            *(word for flag, value in own.items() if flag not in options for word in (flag, value)),
            *options,
        ]

    def run(self, *options: str) -> dict[str, Any]:
        """A run that ends well; its record."""
        before = set(self.folders())
        code = self.forks.run(self.arguments(*options), self.log, *self.hook)
        assert code == 0, self.log.read_text()
        (folder,) = set(self.folders()) - before
        self.last = folder
        return json.loads((folder / "run.json").read_text())

    def fails(self, *options: str) -> str:
        """A run that ends with one line; that line."""
        self.log.unlink(missing_ok=True)
        code = self.forks.run(self.arguments(*options), self.log, *self.hook)
        lines = [line for line in self.log.read_text().splitlines() if not line.startswith(NOTES)]
        assert code == 2, lines
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    def folders(self) -> list[Path]:
        return [path.parent for path in self.output.glob("*/*/run.json")]


def computed(record: dict[str, Any]) -> int:
    return sum(row["computed"] for row in record["timing"]["rows"].values())


def samples(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}


def change_weight(model: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


# Called in the fork, before the command


def short_answers(budget: int = 6, stops: list[str] | None = None) -> None:
    """In the fork: a small budget, so that a random model is done soon; other stops on request."""
    from evals.run import work as runner

    build = runner.build_docs

    def shortened(*arguments: Any) -> Any:
        docs = build(*arguments)
        for doc in docs:
            if doc.generation_size is not None:
                doc.generation_size = budget
                doc.stop_sequences = doc.stop_sequences if stops is None else stops
        return docs

    runner.build_docs = shortened


def slow(counter: str) -> None:
    """In the fork: after each result a byte in the file ``counter``, and a rest, so that a test can act meanwhile."""
    from evals.adapters.local import PrefixModel

    handle = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    run = PrefixModel.run

    def slowly(*given: Any) -> Iterator[Any]:
        for pair in run(*given):
            yield pair
            os.write(handle, b".")
            time.sleep(0.2)

    PrefixModel.run = slowly  # type: ignore[method-assign]
    short_answers()


def nobody_listens() -> None:
    """What reads the output has gone away: stdout and stderr are pipes without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    short_answers()


def nohup(counter: str) -> None:
    """As `nohup` starts a command; slow, so that a signal falls in its middle."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    slow(counter)


def jumping_clock(jumps: list[float]) -> None:
    """The time of day jumps by so many seconds at each call, one after the other, then stays (patched in Python)."""
    real, left, shift = time.time, list(jumps), [0.0]

    def jumped() -> float:
        if left:
            shift[0] += left.pop(0)
        return real() + shift[0]

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(jumped(), tz)

    time.time = jumped
    for name, module in list(sys.modules.items()):
        if name.startswith("evals.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Jumping  # type: ignore[attr-defined]
    short_answers()


def little_memory(tokens: int) -> None:
    """In the fork: an allocator that has no room for more than so many tokens at once (simulated)."""
    import torch

    from evals.models import loading

    load = loading.load

    def refuse(_: Any, given: tuple[Any, ...]) -> None:
        if given[0].numel() > tokens:
            raise torch.OutOfMemoryError("simulated: no room")

    def limited(*given: Any) -> Any:
        loaded = load(*given)
        loaded.model.get_input_embeddings().register_forward_pre_hook(refuse)
        return loaded

    loading.load = limited


def with_secret(secret: str) -> None:
    """In the fork: secrets where people keep them."""
    os.environ |= {"HF_TOKEN": secret, "OPENAI_API_KEY": secret}
    short_answers()


def no_network() -> None:
    """In the fork: any attempt to reach another machine ends the process with code 99, before it goes out."""
    os.environ.pop("HF_HUB_OFFLINE", None)

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
            event in ("socket.connect", "socket.sendto") and not isinstance(given[1], (str, bytes))
        ):
            os.write(2, f"network: {event} {given}\n".encode())
            os._exit(99)

    sys.addaudithook(watch)
    short_answers()
