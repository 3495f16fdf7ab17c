"""Measures the engine against its plain path, lighteval's TransformersModel and lm-eval's HFLM, in one run.

    python tests/tools/bench.py --data DIR [--only mmlu,gsm8k] [--docs 48] [--modes chat,plain]

Same weights, dtype, threads and docs (spread evenly over the task) for all; they take turns, and the median of at
least three rounds counts. Time includes tokenisation. Each row is printed, and put into the table in README.md beside
this file, as soon as it is measured; the other back ends are slow, so all rows take long. No threshold is asserted:
machines differ, and what else runs on one is not known here.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from lighteval.tasks.requests import Doc  # noqa: E402

from evals.adapters.local import PrefixModel  # noqa: E402
from evals.core.metric import predict  # noqa: E402
from evals.core.requests import GenerateRequest, ScoreRequest  # noqa: E402
from evals.data import sources as data  # noqa: E402
from evals.engine.tree import Inputs, plan  # noqa: E402
from evals.models import loading  # noqa: E402
from evals.models.known import resolve  # noqa: E402
from tasks import get_task  # noqa: E402
from tests.tools.contenders import Lighteval, LmEval, Ours  # noqa: E402

LIKELIHOOD = ("mmlu", "arc_easy", "arc_challenge", "hellaswag", "piqa", "openbook_qa")
GENERATIVE = ("gsm8k", "bbh_navigate", "bbh_object_counting", "ifeval")
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- measured: written by bench.py -->", "<!-- end of measured -->"
HEADER = (
    "benchmark", "docs", "dtype", "engine docs/s", "distinct tokens/s", "× plain", "× lighteval", "× lm-eval",
    "same as plain", "same as lighteval", "of matrix rate", "bf16 flips", "date",
)  # fmt: skip


@dataclass
class Measured:
    """One contender on one benchmark: seconds and matrix rate (operations/s) by round, and what it answered."""

    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


def matrix_rate(model: Any, seconds: float = 0.3) -> float:
    """Best rate of a matrix product of the model's shapes and dtype, operations/s, tried for ``seconds``."""
    weight = next(p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n)
    rows = 1024 if weight.device.type == "cpu" else 16384
    x = torch.randn(rows, weight.shape[1], device=weight.device).to(weight.dtype)
    best, end = math.inf, time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < end:
            _sync(weight.device)
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            _sync(weight.device)
            best = min(best, time.perf_counter() - start)
    return 2 * rows * weight.numel() / best


def take_turns(
    title: str, contenders: dict[str, Callable[[], list[Any]]], model: Any, rounds: int
) -> dict[str, Measured]:
    """Run each contender in each round, the matrix rate measured before and after."""
    measured = {name: Measured() for name in contenders}
    for done in range(rounds):
        for name, run in contenders.items():
            before = matrix_rate(model)
            start = time.perf_counter()
            answers = run()
            _sync(model.device)
            measured[name].seconds.append(time.perf_counter() - start)
            print(
                f"{title}, round {done + 1} of {rounds}: {name} {measured[name].seconds[-1]:.1f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            measured[name].rates.append(max(before, matrix_rate(model)))
            measured[name].answers = answers
    return measured


def needed(requests: Sequence[Any], model: Any, generated: int) -> tuple[int, float]:
    """Distinct tokens that have to be fed, and the operations in matrix products that this takes at least.

    ``requests``: to be scored, or prompts that are continued by ``generated`` tokens in all.
    """
    if isinstance(requests[0], GenerateRequest):
        inputs = [(prompt, len(prompt) - 1) for prompt in {request.prompt for request in requests}]
        outputs = generated
        fed_later = max(0, generated - len(requests))  # the last token of each answer is not fed
    else:
        inputs = [(one.tokens[:-1], len(one.tokens) - 1 - one.n_continuation) for one in requests]
        ends = {tokens[:n] for tokens, first in inputs for n in range(first + 1, len(tokens) + 1)}
        outputs, fed_later = len(ends), 0
    tokens = plan(Inputs.of(inputs), 1 << 20, 1 << 20).tokens + fed_later
    head = model.get_output_embeddings().weight
    layers = sum(
        p.numel() for n, p in model.get_decoder().named_parameters() if p.ndim == 2 and "embed" not in n
    )
    return tokens, 2.0 * (tokens * layers + outputs * head.numel())


def agreement(left: Sequence[Any], right: Sequence[Any]) -> float:
    """Share of equal answers."""
    return sum(a == b for a, b in zip(left, right, strict=True)) / max(1, len(left))


@dataclass
class Together:
    """Likelihood benchmarks added up: docs, distinct tokens, operations, seconds by contender, and its rate."""

    docs: int = 0
    tokens: int = 0
    operations: float = 0.0
    capacity: float = 0.0  # operations that the matrix rate would have done in the engine's seconds
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, docs: int, tokens: int, operations: float, measured: dict[str, Measured]) -> None:
        """One more benchmark."""
        self.docs += docs
        self.tokens += tokens
        self.operations += operations
        ours = measured["shared"]
        self.capacity += statistics.median(s * r for s, r in zip(ours.seconds, ours.rates, strict=True))
        for name, one in measured.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + statistics.median(one.seconds)

    def row(self, mode: str, dtype: str) -> list[str]:
        """The sums as a row of the table."""
        ours = self.seconds["shared"]

        def times(name: str) -> str:
            return f"{self.seconds[name] / ours:.1f}" if name in self.seconds else "–"

        return [
            f"likelihood rows together, {mode}", str(self.docs), dtype, f"{self.docs / ours:.2f}",
            f"{self.tokens / ours:.0f}", times("plain"), times("lighteval"), times("lm-eval"), "–", "–",
            f"{self.operations / self.capacity:.0%}", "–", time.strftime("%Y-%m-%d"),
        ]  # fmt: skip


class Bench:
    """All that stays the same from benchmark to benchmark."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        self.args = args
        device = loading.pick_device(args.device)
        path = Path(args.model_path or resolve(None).location)
        self.loaded = loading.load(path, device, args.dtype)
        if args.random_360m:
            object.__setattr__(
                self.loaded, "model", random_360m(self.loaded.model.config, device, args.dtype)
            )
        self.bfloat16 = (
            copy.deepcopy(self.loaded.model).to(torch.bfloat16) if args.dtype == "float32" else None
        )
        self.loaded.model.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)
        self.folder = folder
        self.source = data.parse_source(args.data)
        self.together = {True: Together(), False: Together()}

    def contenders(self, chat: bool, generative: bool) -> dict[str, Any]:
        """Name to back end, the engine first."""
        # more is slower for them on a CPU when they score: they hold [batch, length, vocabulary] in float32
        batch = self.args.batch or (32 if generative else 8)
        made: dict[str, Any] = {}
        for name in self.args.engines:
            try:
                if name in ("shared", "plain"):
                    made[name] = Ours(self.loaded, chat, name)
                elif name == "lighteval":
                    made[name] = Lighteval(self.loaded, chat, self.folder, batch)
                else:
                    made[name] = LmEval(self.loaded, chat, batch)
            except ImportError as error:
                print(f"{name} is not measured: {error}")
        return made

    def docs(self, name: str, n: int) -> list[Doc]:
        """Docs from all over a task, with a budget that ends."""
        task = get_task(name)
        every = data.build_docs(task, data.load(task, self.source), None)
        n = min(n, len(every))
        docs = [every[i * len(every) // n] for i in range(n)]
        for doc in docs:
            if name in GENERATIVE:
                doc.generation_size = min(doc.generation_size or self.args.tokens, self.args.tokens)
        return docs

    def run(self, name: str, chat: bool) -> list[str]:
        """One row of the table."""
        generative = name in GENERATIVE
        docs = self.docs(name, self.args.generated if generative else self.args.docs)
        contenders = self.contenders(chat, generative)
        requests = self._requests(docs, chat, generative)
        runs: dict[str, Callable[[], list[Any]]] = {}
        for key, backend in contenders.items():
            runs[key] = (
                (lambda b=backend: b.generate(docs)) if generative else (lambda b=backend: b.score(docs))
            )
            (backend.generate if generative else backend.score)(docs[:2])  # warm
        title = f"{name}, {'chat' if chat else 'plain'}"
        measured = take_turns(title, runs, self.loaded.model, self.args.rounds)
        ours = measured["shared"]
        best = statistics.median(ours.seconds)
        answers = {key: self._answers(docs, m.answers, generative) for key, m in measured.items()}

        def times(key: str) -> str:
            return f"{statistics.median(measured[key].seconds) / best:.1f}" if key in measured else "–"

        def same(key: str) -> str:
            return f"{agreement(answers['shared'], answers[key]):.0%}" if key in measured else "–"

        tokens, operations = needed(requests, self.loaded.model, contenders["shared"].generated)
        shares = [operations / s / r for s, r in zip(ours.seconds, ours.rates, strict=True)]
        if not generative:
            self.together[chat].add(len(docs), tokens, operations, measured)
        return [
            title, str(len(docs)), self.args.dtype, f"{len(docs) / best:.2f}", f"{tokens / best:.0f}",
            times("plain"), times("lighteval"), times("lm-eval"), same("plain"), same("lighteval"),
            f"{statistics.median(shares):.0%}", self._flips(docs, chat, generative, answers["shared"]),
            time.strftime("%Y-%m-%d"),
        ]  # fmt: skip

    def _requests(self, docs: list[Doc], chat: bool, generative: bool) -> list[Any]:
        adapter = PrefixModel(self.loaded, chat, "benchmark")
        if generative:
            made: list[GenerateRequest] = adapter.generate_requests(docs)
            return list(made)
        scored: list[ScoreRequest] = [request for group in adapter.score_requests(docs) for request in group]
        return list(scored)

    def _answers(self, docs: list[Doc], raw: list[Any], generative: bool) -> list[Any]:
        return (
            raw
            if generative
            else [predict(doc.choices, logprobs) for doc, logprobs in zip(docs, raw, strict=True)]
        )

    def _flips(self, docs: list[Doc], chat: bool, generative: bool, answers: list[Any]) -> str:
        if self.bfloat16 is None or generative or not self.args.flips:
            return "–"
        other = copy.copy(self.loaded)
        object.__setattr__(other, "model", self.bfloat16)
        object.__setattr__(other, "dtype", "bfloat16")
        found = self._answers(docs, Ours(other, chat, "shared").score(docs), False)
        return f"{1 - agreement(answers, found):.1%}"


def random_360m(like: Any, device: torch.device, dtype: str) -> Any:
    """SmolLM2-360M's shape with random weights: right for speed, not for answers."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(like)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 960, 2560, 32
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 15, 5, 64
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=loading.DTYPES[dtype]).to(device).eval()


def machine(device: torch.device, threads: int) -> str:
    """What was measured on, in a line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = "CPU"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name}, {threads} threads, torch {torch.__version__}"


def write_table(where: str, rows: list[list[str]]) -> None:
    """Put rows into README.md's table for this machine; rows of the same benchmark, docs and dtype are replaced."""
    text = README.read_text() if README.is_file() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    body, tail = rest.split(END, 1)
    sections: dict[str, dict[tuple[str, ...], list[str]]] = {}
    current = ""
    for line in body.splitlines():
        if line.startswith("### "):
            current = line[4:].strip()
        elif line.startswith("| ") and not line.startswith(f"| {HEADER[0]} "):
            cells = [cell.strip() for cell in line.strip("|\n ").split(" | ")]
            sections.setdefault(current, {})[tuple(cells[:3])] = cells
    for row in rows:
        sections.setdefault(where, {})[tuple(row[:3])] = row
    lines = []
    for section, found in sections.items():
        lines += ["", f"### {section}", "", f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
        lines += [f"| {' | '.join(cells)} |" for cells in found.values()]
    README.write_text(head + BEGIN + "\n".join(lines) + "\n\n" + END + tail)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options."""
    known = LIKELIHOOD + GENERATIVE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder of benchmark data")
    parser.add_argument("--only", default=",".join(known), help=f"benchmarks, of {', '.join(known)}")
    parser.add_argument("--modes", default="chat,plain")
    parser.add_argument("--engines", default="shared,plain,lighteval,lm-eval")
    parser.add_argument("--docs", type=int, default=48, help="docs of a likelihood benchmark")
    parser.add_argument("--generated", type=int, default=12, help="docs of a generative benchmark")
    parser.add_argument("--tokens", type=int, default=48, help="new tokens at most, a doc")
    parser.add_argument("--rounds", type=int, default=3, help="at least 3 for the table")
    parser.add_argument(
        "--batch", type=int, help="batch size of lighteval and lm-eval (default: 8 to score, 32 to generate)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32", choices=sorted(loading.DTYPES))
    parser.add_argument("--device")
    parser.add_argument("--model-path", help="folder or .gguf file; default: the embedded model")
    parser.add_argument(
        "--random-360m", action="store_true", help="SmolLM2-360M's shape, random weights: speed only"
    )
    parser.add_argument("--no-flips", dest="flips", action="store_false", help="leave bfloat16 out")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave README.md as it is")
    args = parser.parse_args(argv)
    for option in ("only", "modes", "engines"):
        setattr(args, option, [part for part in getattr(args, option).split(",") if part])
    if "shared" not in args.engines:
        parser.error("--engines must hold 'shared': the others are compared with it")
    if unknown := [name for name in args.only if name not in known]:
        parser.error(f"--only: no benchmark '{unknown[0]}'")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, loading.quiet():
        bench = Bench(args, folder)
        where = machine(bench.loaded.device, args.threads)
        print(
            f"{where}; matrix product {matrix_rate(bench.loaded.model, 2) / 1e9:.0f} GFLOP/s ({args.dtype})"
        )
        print(" | ".join(HEADER), flush=True)
        for mode in args.modes:
            rows = (bench.run(name, mode == "chat") for name in args.only)
            together = bench.together[mode == "chat"]
            for row in rows:
                show(where, row, args)
            if together.docs and set(LIKELIHOOD) <= set(args.only):
                show(where, together.row(mode, args.dtype), args)
    return 0


def show(where: str, row: list[str], args: argparse.Namespace) -> None:
    """Print a row, and write it where enough rounds were measured."""
    print(" | ".join(row), flush=True)
    if args.write and args.rounds >= 3:
        write_table(where, [row])


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    raise SystemExit(main())
