"""A card that does not ship: an F1, which is neither right nor wrong, and bits a byte, of which less is better."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.core.card import Card
from evals.core.metric import METRICS, TEXT, Line, Metric
from tests.support.made_runs import Made, build

TOML = """
name = "toy"
title = "Toy Table"
header = "Row"
prompts = "plain"
compared = ["Big"]

[models.Big]
source = "https://example.com/big"
[models.Small]
source = "https://example.com/small"

[[rows]]
label = "Words (F1)"
tasks = ["toy_words"]
metric = "toy_f1"
docs = 200
published = { Big = "71.2", Small = "50.0" }

[[rows]]
label = "Books (bits)"
tasks = ["toy_prose", "toy_verse"]
metric = "toy_bits"
docs = 400
published = { Big = "0.8412", Small = "1.2000" }
"""


def f1(line: Line) -> float:
    """Harmonic mean of precision and recall over words."""
    said, gold = set(line["output"].split()), set(line["gold"][0].split())
    both = len(said & gold)
    return 0.0 if both == 0 else 2 * both / (len(said) + len(gold))


def bits(line: Line) -> float:
    """Bits a byte of a text whose log-likelihood is known."""
    return -line["text_logprob"] / math.log(2) / line["n_bytes"]


F1 = Metric("toy_f1", "shared words", "toy_f1", binary=False, inputs=TEXT, formula=f1)
BITS = Metric(
    "toy_bits", "bits a byte", "toy_bits", high=math.inf, binary=False, unit="bits", digits=3, higher_is_better=False,
    margin=0.05, inputs=("text_logprob", "n_bytes"), formula=bits,
)  # fmt: skip


def register(patch: pytest.MonkeyPatch) -> Card:
    """Makes the metrics known until the patch is undone; returns the card."""
    for metric in (F1, BITS):
        patch.setitem(METRICS, metric.name, metric)
    return Card.model_validate(tomllib.loads(TOML))


def answers(task: str, scores: Sequence[float]) -> dict[str, list[Any]]:
    """Columns from which these scores follow: an F1 of k quarters, or any number of bits."""
    if task == "toy_words":
        outputs = [" ".join("abcd"[: round(4 * score)] + "wxyz"[round(4 * score) :]) for score in scores]
        lines: dict[str, list[Any]] = {"gold": [["a b c d"]] * len(scores), "output": outputs}
        values = [f1({"gold": ["a b c d"], "output": output}) for output in outputs]
        return lines | {"toy_f1": values}
    logprobs = [-score * math.log(2) * 100 for score in scores]
    lines = {"text_logprob": logprobs, "n_bytes": [100] * len(scores)}
    return lines | {"toy_bits": [bits({"text_logprob": one, "n_bytes": 100}) for one in logprobs]}


def made(results: Path, card: Card, name: str, quarters: int, level: float, **options: Any) -> Path:
    """A run of 200 docs a task: F1 about `quarters` in four, bits about `level`."""
    words = [min(4, max(0, quarters + (k % 3 - 1))) / 4 for k in range(200)]
    prose = [level + 0.1 * math.sin(k) for k in range(200)]
    scores = {"toy_words": words, "toy_prose": prose, "toy_verse": [value + 0.2 for value in prose]}
    return build(results, Made(card=card, answers=answers, name=name, scores=scores, **options))
