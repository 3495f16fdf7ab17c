"""How the engine's work grows: planning with the number of requests, decoding with that of sequences.

    python tests/tools/scaling.py --out FOLDER [--largest 1000000] [--data DIR] [--device cuda [--model NAME]]

Plan: MMLU's prompts from DIR (made ones without it), varied and repeated up to 10^3 … 10^6 requests; processor seconds
and memory of the arrays and at the peak, in one plan and as the scorer plans on a GPU. Decode, with --device: tokens a
second with 1 to --sequences sequences, greedy, prompts of 64 tokens, after a round that is not counted. Prints tables
and draws both as FOLDER/scaling.png.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.core.requests import GenerateRequest, ScoreRequests
from evals.engine.scoring import MAX_PREFIX, PLANNED_ON_GPU, inputs_of
from evals.engine.tree import plan

CHOICES, PROMPT, NEW_TOKENS = 4, 64, 128
MAX_BLOCK = 131072


@dataclass(frozen=True)
class Planned:
    """Planning of some requests: processor seconds in one plan and in parts, bytes a request."""

    requests: int
    tokens: int
    whole: float
    parts: float
    kept: float
    peak: float


def made_requests(n: int, seed: int = 0) -> ScoreRequests:
    """Docs as MMLU's: a header of one of 57 subjects, a question of some 80 tokens, four choices of some 8."""
    rng = np.random.default_rng(seed)
    headers = rng.integers(0, 49152, (57, 12))
    parts, lengths, counts = [], [], []
    for doc in range(-(-n // CHOICES)):
        context = np.append(headers[doc % 57], rng.integers(0, 49152, rng.integers(20, 140)))
        for size in rng.integers(1, 16, CHOICES):
            parts += [context, rng.integers(0, 49152, size)]
            lengths.append(len(context) + size)
            counts.append(size)
    tokens = np.concatenate(parts).astype(np.int32)
    return ScoreRequests(tokens, np.append(0, np.cumsum(lengths)), np.array(counts))[:n]


def real_requests(data: Path, n: int) -> ScoreRequests:
    """MMLU's requests in chat; again with other tokens in each question where more are asked for."""
    from evals.data.sources import build_docs, load, parse_source
    from evals.models import loading
    from evals.models.known import EMBEDDED_NAME, resolve
    from evals.prompting.requests import TextToRequests
    from tasks import get_task

    task = get_task("mmlu")
    tokenizer = loading.load_tokenizer(loading.local_path(resolve(EMBEDDED_NAME), True), chat=True)
    docs = build_docs(task, load(task, parse_source(str(data))), -(-n // CHOICES))
    one = ScoreRequests.joined(TextToRequests(tokenizer, True).score_requests(docs))
    rounds = []
    for number in range(-(-n // len(one))):
        # another text from a place on that differs: after the header, within the question
        tokens = one.tokens.copy()
        tokens[np.minimum(one.starts[:-1] + 16, one.starts[1:] - 1)] = (1000 + number) % 49152
        rounds.append(ScoreRequests(tokens if number else one.tokens, one.starts, one.n_continuation))
    return ScoreRequests.joined(rounds)[:n]


def planned(requests: ScoreRequests) -> Planned:
    """Plans them twice: in one, and some thousand at a time."""
    requests = ScoreRequests.of(requests)
    n = len(requests)
    begin = time.process_time()
    for first in range(0, n, PLANNED_ON_GPU):
        part = requests.take(range(first, min(n, first + PLANNED_ON_GPU)))
        plan(inputs_of(part), MAX_BLOCK, MAX_PREFIX)
    parts = time.process_time() - begin
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    plan(inputs_of(requests), MAX_BLOCK, MAX_PREFIX)
    whole = time.process_time() - begin
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    kept = requests.tokens.nbytes + requests.starts.nbytes + requests.n_continuation.nbytes
    return Planned(n, len(requests.tokens), whole, parts, kept / n, peak / n)


def decoded(model: Any, tokenizer: Any, n: int) -> tuple[int, float, float]:
    """(sequences, tokens a second, milliseconds a step) with all of them under way from the first step on."""
    from evals.engine.decoding import BatchDecoder

    rng = np.random.default_rng(n)
    size = model.config.get_text_config().vocab_size
    decoder = BatchDecoder(model, tokenizer, [], max_sequences=n)
    seconds = 0.0
    for _ in range(2):  # kernels and the captured step are made in the first
        prompts = rng.integers(0, size, (n, PROMPT)).tolist()
        requests = [GenerateRequest(tuple(prompt), NEW_TOKENS) for prompt in prompts]
        begin = time.perf_counter()
        assert sum(1 for _ in decoder.run(requests)) == n
        seconds = time.perf_counter() - begin
    return n, n * NEW_TOKENS / seconds, 1000 * seconds / NEW_TOKENS


def plot(plans: list[Planned], steps: list[tuple[int, float, float]], path: Path) -> None:
    """Both curves, on logarithmic axes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    left.loglog([p.requests for p in plans], [p.whole for p in plans], "o-", label="in one plan")
    left.loglog([p.requests for p in plans], [p.parts for p in plans], "s--", label="as on a GPU")
    left.set(xlabel="requests", ylabel="processor seconds", title="Planning")
    left.legend()
    right.set(xlabel="sequences", ylabel="tokens a second", title="Decoding")
    if steps:
        right.loglog([n for n, _, _ in steps], [rate for _, rate, _ in steps], "o-", base=2)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Prints the tables, and draws them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--largest", type=int, default=10**6)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device")
    parser.add_argument("--model", default="")
    parser.add_argument("--sequences", type=int, default=2048)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plans = []
    requests = real_requests(args.data, args.largest) if args.data else made_requests(args.largest)
    for n in (10**power for power in range(3, 7)):
        if n <= args.largest:
            plans.append(planned(requests[:n]))
            print(f"planned {n:,} requests: {plans[-1].whole:.2f} s", file=sys.stderr, flush=True)
    del requests
    heads = [
        "requests",
        "tokens",
        "s in one",
        "s as on a GPU",
        "bytes a request",
        "peak bytes a request more",
    ]
    cells = [
        (
            f"{p.requests:,}",
            f"{p.tokens:,}",
            f"{p.whole:.2f}",
            f"{p.parts:.2f}",
            f"{p.kept:.0f}",
            f"{p.peak:.0f}",
        )
        for p in plans
    ]
    print(tabulate(cells, heads, tablefmt="github", disable_numparse=True, stralign="right"), "\n")
    steps = []
    if args.device:
        from evals.models import loading
        from evals.models.known import EMBEDDED_NAME, resolve

        path = loading.local_path(resolve(args.model or EMBEDDED_NAME), True)
        device = loading.pick_device(args.device)
        loaded = loading.load(path, device, loading.pick_dtype(None, device))
        n = 1
        while n <= args.sequences:
            steps.append(decoded(loaded.model, loaded.tokenizer, n))
            print(f"decoded with {n} sequences: {steps[-1][1]:,.0f} tokens/s", file=sys.stderr, flush=True)
            n *= 2
        cells = [(str(n), f"{rate:,.0f}", f"{step:.2f}") for n, rate, step in steps]
        heads = ["sequences", "tokens/s", "ms a step, all in all"]
        print(tabulate(cells, heads, tablefmt="github", disable_numparse=True, stralign="right"))
    plot(plans, steps, args.out / "scaling.png")


if __name__ == "__main__":
    main()
