"""A run's judgments in detail: ratings by category and turn, agreement of judges, a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from evals.core import statistics
from evals.core.files import write_atomic
from evals.core.statistics import Estimate

NO_RATING = -1.0

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
    rated = [
        line
        for line in lines
        if line["score"] != NO_RATING
        and category in (None, line["category"])
        and turn in (None, line["turn"])
    ]
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

    rated = {
        key: {
            (line["question_id"], line["turn"]): line["score"] for line in own if line["score"] != NO_RATING
        }
        for key, own in series(lines).items()
    }
    found = []
    for first, second in combinations(rated, 2):
        shared = sorted(rated[first].keys() & rated[second].keys())
        if not shared:
            continue
        a = np.array([rated[first][answer] for answer in shared])
        b = np.array([rated[second][answer] for answer in shared])
        varied = len(set(a)) > 1 and len(set(b)) > 1
        spearman = float(stats.spearmanr(a, b).statistic) if varied else None
        found.append(
            Agreement(
                label(first),
                label(second),
                len(shared),
                float(np.mean(a == b)),
                float(np.mean(b - a)),
                spearman,
            )
        )
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
        parts.append(
            f"{head}\n{tabulate(rows, ['category', 'turn 1', 'turn 2', 'both'], disable_numparse=True)}"
        )
    for one in agreements(lines):
        spearman = "undefined" if one.spearman is None else f"{one.spearman:.2f}"
        parts.append(
            f"agreement on {one.n} answers: {one.first} and {one.second}: {100 * one.equal:.0f} % equal, "
            f"mean difference {one.difference:+.2f}, Spearman {spearman}"
        )
    return "\n\n".join(parts)


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    interval = "" if estimate.stderr is None else f" ± {1.96 * estimate.stderr:.2f}"
    return f"{estimate.value:.2f}{interval}"


def draw(lines: Sequence[Line], title: str, folder: Path, name: str) -> list[Path]:
    """Bars by category, one colour a judge, with 95 % intervals: NAME.svg and NAME.png in `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = name  # the same judgments draw the same file
    by_judge = series(lines)
    names = categories(lines)
    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    width = 0.8 / len(by_judge)
    for position, (key, own) in enumerate(by_judge.items()):
        estimates = [score(own, name) for name in names]
        axes.bar(
            np.arange(len(names)) + (position - (len(by_judge) - 1) / 2) * width,
            [math.nan if one is None else one.value for one in estimates],
            width,
            yerr=[0.0 if one is None or one.stderr is None else 1.96 * one.stderr for one in estimates],
            capsize=2,
            label=_plain(label(key)),
        )
    axes.set_xticks(np.arange(len(names)), [_plain(name) for name in names])
    axes.set_ylim(0, 10)
    axes.set_ylabel("mean rating, 1 to 10")
    axes.set_title(_plain(title))
    axes.legend(loc="upper right", fontsize="small")
    paths = []
    for kind in ("svg", "png"):
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        paths.append(folder / f"{name}.{kind}")
        write_atomic(paths[-1], buffer.getvalue())
    pyplot.close(figure)
    return paths


def _plain(words: str) -> str:
    """Text from outside, fit for a label: no mathematics mode, no control characters."""
    return "".join(c if c.isprintable() else " " for c in words).replace("$", r"\$")[:120]
