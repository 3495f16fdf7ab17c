"""Results to store: any, and ones that are a function of their number."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import strategies as st

from evals.core.requests import Generation, Result, Score, ScoreRequest
from evals.run.store import Store, request_key

finite = st.floats(allow_nan=False, allow_infinity=False)
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
texts = st.text(st.characters(exclude_categories=()), max_size=30)
results = st.builds(Score, finite) | st.builds(
    Generation, text=texts, tokens=tokens, finish=st.sampled_from(["eos", "stop", "length"])
)


def result(number: int) -> Result:
    """A result that is a function of its number, so that a wrong one shows."""
    if number % 3 == 0:
        words = f"answer {number} " * (number % 17)
        return Generation(words, tuple(range(number, number + number % 40)), "stop")
    return Score(-math.sqrt(number + 1))


def pairs(count: int, start: int = 0) -> dict[bytes, Result]:
    return {
        request_key("model", ScoreRequest((number, 1), 1)): result(number)
        for number in range(start, start + count)
    }


def fill(path: Path, records: dict[bytes, Result]) -> None:
    with Store.open(path) as store:
        store.put(records.items())
