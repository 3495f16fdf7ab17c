"""A run's judgments in detail: ratings by category and turn, agreement of judges, a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from evals.core import statistics
from evals.core.statistics import Estimate
from reports.card import plus_minus
from reports.render.pictures import COLOURS, picture, quiet
from reports.render.tables import one_line

NO_RATING = -1.0
Z = statistics.two_sided_z(0.95)

Line = Mapping[str, Any]
Series = tuple[str, str, str]


@dataclass(frozen=True)
class Agreement:
    """Two judges on the answers that both rated. `difference`: mean of second less first; `spearman` may be None.

    `equal`: share of the same rating.
    """

    first: str
    second: str
    n: int
    equal: float
    difference: float
    spearman: float | None


def series(lines: Sequence[Line]) -> dict[Series, list[Line]]:
    """The judgments of each judge and prompt set, in the order in which they stand."""
    found: dict[Series, list[Line]] = {}
    for line in lines:
        found.setdefault((line["judge"], line["prompt_set"], line["prompt_set_sha256"]), []).append(line)
    return found


def label(key: Series) -> str:
    """A judge and its prompts in words; the prompts' hash tells sets of one name apart."""
    return f"{key[0]}, prompts {key[1]} ({key[2][:8]})"


def score(lines: Sequence[Line], category: str | None = None, turn: int | None = None) -> Estimate | None:
    """Mean rating, 1 to 10, of a category and turn (None: all); turns of one question are clustered.

    None if no answer among them has a rating.
    """
    rated = [line for line in lines if line["score"] != NO_RATING]
    rated = [line for line in rated if category in (None, line["category"]) and turn in (None, line["turn"])]
    if not rated:
        return None
    ratings = np.array([line["score"] for line in rated], dtype=np.float64)
    return statistics.clustered_mean(ratings, [line["question_id"] for line in rated])


def categories(lines: Sequence[Line]) -> list[str]:
    """The categories that occur, in the order of their first questions."""
    ordered = sorted(lines, key=lambda line: line["question_id"])
    return list(dict.fromkeys(line["category"] for line in ordered))


def agreements(lines: Sequence[Line]) -> list[Agreement]:
    """Every pair of judges on the same answers."""
    from scipy import stats  # a second of imports: only where judges are compared

    rated: dict[Series, dict[tuple[int, int], float]] = {}
    for key, own in series(lines).items():
        known = (line for line in own if line["score"] != NO_RATING)
        rated[key] = {(line["question_id"], line["turn"]): line["score"] for line in known}
    found = []
    for first, second in combinations(rated, 2):
        shared = sorted(rated[first].keys() & rated[second].keys())
        if not shared:
            continue
        a, b = (np.array([rated[judge][answer] for answer in shared]) for judge in (first, second))
        varied = len(set(a)) > 1 and len(set(b)) > 1
        spearman = float(stats.spearmanr(a, b).statistic) if varied else None
        equal, gap = float(np.mean(a == b)), float(np.mean(b - a))
        found.append(Agreement(label(first), label(second), len(shared), equal, gap, spearman))
    return found


def text(lines: Sequence[Line]) -> str:
    """Tables for a terminal: one a judge by category and turn, then how judges agree."""
    parts = []
    for key, own in series(lines).items():
        rows = [
            [name, *(_shown(score(own, None if name == "all" else name, turn)) for turn in (1, 2, None))]
            for name in [*categories(own), "all"]
        ]
        unrated = sum(line["score"] == NO_RATING for line in own)
        cut = sum(line["cut_characters"] > 0 for line in own)
        head = f"{label(key)}: {len(own)} judgments, {unrated} without a rating (left out), {cut} prompts cut"
        names = ["category", "turn 1", "turn 2", "both"]
        parts.append(f"{head}\n{tabulate(rows, names, disable_numparse=True)}")
    for one in agreements(lines):
        spearman = "undefined" if one.spearman is None else f"{one.spearman:.2f}"
        parts.append(
            f"agreement on {one.n} answers: {one.first} and {one.second}: {100 * one.equal:.0f} % equal, "
            f"mean difference {one.difference:+.2f}, Spearman {spearman}"
        )
    if parts:
        parts.append(
            "± is half the width of the 95 % interval over the questions; turns of one are clustered"
        )
    return "\n\n".join(parts)


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.2f}{plus_minus(estimate.interval(), 2)}"


def draw(lines: Sequence[Line], title: str, folder: Path, name: str) -> list[Path]:
    """Bars by category, one colour a judge, with 95 % intervals: NAME.svg and NAME.png in `folder`."""
    by_judge, names = series(lines), categories(lines)
    width = 0.8 / len(by_judge)
    paths = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    with picture(paths, (9, 4.5), "Whiskers are 95 % intervals over the questions.") as (axis,):
        for k, (key, own) in enumerate(by_judge.items()):
            estimates = [score(own, name) for name in names]
            axis.bar(
                np.arange(len(names)) + (k - (len(by_judge) - 1) / 2) * width,
                [math.nan if one is None else one.value for one in estimates],
                width,
                yerr=[0.0 if one is None or one.stderr is None else Z * one.stderr for one in estimates],
                capsize=2,
                color=COLOURS[k % len(COLOURS)],
                label=one_line(label(key))[:120],
            )
        axis.set_xticks(np.arange(len(names)), [one_line(name)[:120] for name in names])
        axis.set_ylim(0, 10)
        axis.set_ylabel("mean rating, 1 to 10")
        axis.set_title(one_line(title)[:120])
        axis.legend(loc="upper right", fontsize="small")
        quiet(axis, "y")
    return paths
