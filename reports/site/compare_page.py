"""Pairs of runs side by side: what quantising cost, and how every run stands beside the best of its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reports.boards import Board
from reports.card import signed
from reports.comparability import CIRCUMSTANCES
from reports.compare import Comparison, Pair, compare_runs
from reports.margins import USUAL
from reports.runs import Run
from reports.site.naming import Shown

MOST = 60  # pairs of a site: each reads the scores of two whole runs


def pairs_of(boards: Sequence[Board], shown: Sequence[Shown]) -> list[tuple[Shown, Shown]]:
    """Pairs to compare: runs of one model and suite (plain before quantised), then each table's best and the others."""
    items = {id(item.run): item for item in shown}
    found = [
        (one, other)
        for k, one in enumerate(shown)
        for other in shown[k + 1 :]
        if (one.run.suite, one.run.name, one.run.smoke) == (other.run.suite, other.run.name, other.run.smoke)
    ]
    pairs = [sorted(pair, key=lambda item: bool(item.run.model.quantization)) for pair in found]
    for board in boards:
        best, *others = [items[id(entry.run)] for entry in board.entries]
        pairs += [[best, other] for other in others]
    unique = {(one.key, other.key): (one, other) for one, other in pairs}
    return list(unique.values())[:MOST]


def compare_page(pairs: Sequence[tuple[Shown, Shown]]) -> dict[str, Any]:
    """The page of all pairs, each folded under the sentence that says what came out."""
    words = (
        f"Verdict: {USUAL.words}. Interval and p are of the differences of the docs that both runs answered"
    )
    return {"here": "compare", "pairs": [_pair(one, other) for one, other in pairs], "words": words}


def address(one: Shown, other: Shown) -> str:
    """Where a pair stands on its page."""
    return f"{one.key}--{other.key}"


def _pair(one: Shown, other: Shown) -> dict[str, Any]:
    (found,) = compare_runs([one.run, other.run])
    quantised = _is_quantising(one.run, other.run)
    return {
        "id": address(one, other),
        "a": {"name": one.title, "page": one.page},
        "b": {"name": other.title, "page": other.page},
        "kind": "what quantising cost" if quantised else "",
        "sentence": found.sentence,
        "apart": _apart(found),
        "tests": found.tests,
        "lines": [_line(pair) for pair in (*found.rows, found.mean) if pair],
    }


def _is_quantising(one: Run, other: Run) -> bool:
    return one.name == other.name and not one.model.quantization and bool(other.model.quantization)


def _apart(found: Comparison) -> list[str]:
    """What sets the two runs apart, what makes them other measurements first."""
    return [
        one.text if one.code in CIRCUMSTANCES else f"not the same measurement: {one.text}"
        for one in found.mismatches
    ]


def _line(pair: Pair) -> dict[str, Any]:
    d, digits = pair.difference, pair.metric.digits
    if d is None or pair.first is None or pair.second is None or pair.p is None:
        return {"label": pair.label, "verdict": pair.verdict, "a": None}
    return {
        "label": pair.label,
        "a": f"{pair.first:.{digits}f}",
        "b": f"{pair.second:.{digits}f}",
        "difference": signed(d.value, digits + 1),
        "interval": f"{signed(d.low, digits + 1)} to {signed(d.high, digits + 1)}",
        "docs": f"{pair.docs[0]:,} / {pair.docs[1]:,}",
        "n": d.n,
        "p": "≤ 0.001" if pair.p < 0.001 else f"{pair.p:.3f}",
        "verdict": pair.verdict,
        "kind": pair.kind,
    }
