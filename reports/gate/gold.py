"""Evidence finer than right or wrong: what happened to the gold answers' log-probabilities.

A likelihood row tells by how much the gold choice is ahead of the best other one: its margin, in the figures by which
the row's metric ranks choices (nats a character, on SmolLM2's card). A generated row whose reference answers were
scored (`run --references`) tells how far such an answer is, in nats a token, above the log-probability that as many of
the baseline's docs reach as it answers right.
Soft accuracy is the mean of Φ(margin / width), where `width` is half the spread of the baseline's margins. It is nearly
the accuracy, but a near tie that flips moves it by next to nothing: so it shows a change, or that there is none, on far
fewer docs. A run keeps all that this takes; a blessed baseline keeps the numbers a doc.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from evals.core import statistics
from evals.core.metric import METRICS, UNCONDITIONED, Line, Metric
from evals.core.runlog import refuse
from evals.core.statistics import Array, Estimate, two_sided_z
from reports.flips import changed_docs
from reports.runs import Columns, RowResult, Run, aligned

GOLD, MARGIN = "gold_logprob", "gold_margin"
"""Columns: the gold answer's log-probability (nats a token), and, of a choice, its margin."""
SOFT = Metric("soft_accuracy", "soft accuracy", "soft", binary=False)
NORMAL_SPREAD = 1.349  # from the first to the third quartile of a normal distribution, in standard deviations
INPUTS = ("gold", "choices", "logprobs", "n_tokens", UNCONDITIONED)
REFERENCE = ("reference_logprob", "n_reference_tokens")

Side = Mapping[str, Any]
Pair = tuple[Side, Side]
"""The columns of a task's shared docs, of the baseline and of the candidate."""


@dataclass(frozen=True)
class Gold:
    """What became of the gold answers: percent less likely a token, with its 95 % interval (negative: likelier).

    `flipped` docs of the row have another score; `near` of them were near ties in the baseline (margin within width).
    """

    less_likely: float
    low: float
    high: float
    flipped: int
    near: int

    @property
    def words(self) -> str:
        """In a sentence."""
        side = "less" if self.less_likely >= 0 else "more"
        size = f"{abs(self.less_likely):.1f} % {side} likely a token"
        if self.low > 0 or self.high < 0:
            return f"gold answers became {size}"
        return f"gold answers are as likely as before ({size}, within chance)"


@functools.lru_cache(maxsize=128)
def gold_columns(run: Run, task: str) -> dict[str, Array] | None:
    """{GOLD, of choices also MARGIN: [n_docs]} of a task's samples; None where they keep no log-probabilities.

    Raises UserError for what is no number.
    """
    if task not in run.tasks:
        return None
    table = run.table(task, (*INPUTS, *REFERENCE, GOLD, MARGIN))
    have, ranked = set(table.column_names), _ranked_by(run, task)
    found: dict[str, Any]
    try:
        if GOLD in have:
            found = {name: table.column(name).to_pylist() for name in (GOLD, MARGIN) if name in have}
        elif ranked and {"n_tokens", *ranked.inputs} <= have:
            lines = table.to_pylist()
            found = {GOLD: list(map(_a_token, lines)), MARGIN: [_margin(ranked, line) for line in lines]}
        elif set(REFERENCE) <= have:
            logprobs, tokens = (np.array(table.column(name).to_pylist(), dtype=float) for name in REFERENCE)
            found = {GOLD: logprobs / np.maximum(1, tokens)}
        else:
            return None
        numbers = {name: np.array(values, dtype=float) for name, values in found.items()}
    except (LookupError, TypeError, ValueError):  # what stands there is of another type or length
        numbers = {}
    if not numbers or not all(np.isfinite(values).all() for values in numbers.values()):
        refuse(run.folder, f"samples/{task}.parquet: a gold answer's log-probability is no finite number")
    return numbers


def has_gold(run: Run, row: RowResult) -> bool:
    """Whether gold answers are evidence for a row of this run."""
    columns = [gold_columns(run, task) for task in row.tasks]
    whole = row.metric.shape == "doc" and bool(row.metric.column) and math.isfinite(row.metric.reach)
    return all(one is not None and (whole or MARGIN in one) for one in columns)


def _ranked_by(run: Run, task: str) -> Metric | None:
    """What ranks the task's choices: its row's metric, or the one whose groups' mean that is; None without choices."""
    row = next((row for row in run.rows if task in row.tasks), None)
    metric = None if row is None else METRICS.get(row.metric.column)
    return metric if metric is not None and metric.ranking is not None else None


def _a_token(line: Line) -> float:
    logprob, tokens = line["logprobs"][line["gold"]], line["n_tokens"][line["gold"]]
    return float(logprob / max(1, tokens))


def _margin(ranked: Metric, line: Line) -> float:
    assert ranked.ranking is not None
    others = list(ranked.ranking(line))
    gold = others.pop(line["gold"])
    return gold - max(others, default=gold)


def gold_pair(
    metric: Metric, baseline: Run, candidate: Run, task: str, any_prompt: bool = False
) -> Pair | None:
    """Both runs' gold columns and soft accuracies on a task's shared docs; None where one of them has none.

    `metric`: the row's, whose mean over the baseline's docs says above which log-probability a reference answer counts.
    """
    one, two = gold_columns(baseline, task), gold_columns(candidate, task)
    if one is None or two is None or set(one) != set(two):
        return None
    own = baseline.columns(task)
    if MARGIN not in one:
        wrong = 1 - (np.mean(own[metric.column]) - metric.low) / (metric.high - metric.low)
        enough = np.quantile(one[GOLD], wrong if metric.higher_is_better else 1 - wrong)
        one, two = ({**side, MARGIN: side[GOLD] - enough} for side in (one, two))
    low, high = np.quantile(one[MARGIN], [0.25, 0.75])
    width = max(float(high - low) / NORMAL_SPREAD / 2, 1e-6)
    mine, theirs, _ = aligned(baseline, candidate, task, any_prompt)
    common = {name: [own[name][k] for k in mine] for name in ("doc_id", "group") if name in own}
    return _soft(one, mine, width) | common, _soft(two, theirs, width) | common


def _soft(columns: Mapping[str, Array], positions: Sequence[int], width: float) -> dict[str, Any]:
    gold, margin = columns[GOLD][positions], columns[MARGIN][positions]
    soft = special.ndtr(margin / width)
    return {GOLD: gold, MARGIN: margin, "near": np.abs(margin) <= width, SOFT.column: soft}


def gold_change(metric: Metric, shared: Sequence[tuple[Columns, Columns]], pairs: Sequence[Pair]) -> Gold:
    """What became of a row's gold answers; `shared`: the row's own score columns of the same docs."""
    change = mean_change(replace(SOFT, column=GOLD, average=metric.average), pairs)
    half = math.inf if change.stderr is None else two_sided_z(0.95) * change.stderr
    low, middle, high = (
        100 * (1 - math.exp(min(nats, 700.0) / 100))
        for nats in (change.value + half, change.value, change.value - half)
    )
    flipped = [changed_docs(metric, *pair) for pair in shared]
    near = sum(int(np.sum(one & pair[0]["near"])) for one, pair in zip(flipped, pairs, strict=True))
    return Gold(middle, low, high, int(sum(one.sum() for one in flipped)), near)


def mean_change(metric: Metric, pairs: Sequence[Pair]) -> Estimate:
    """The mean paired change of the metric's column over the tasks' docs, averaged as it says, times 100."""
    name = metric.column
    strata = statistics.row_strata(metric, [{**one, name: two[name] - one[name]} for one, two in pairs])
    assert strata is not None
    estimate = statistics.weighted_sum([statistics.mean(scores) for scores in strata[0]], strata[1])
    stderr = None if estimate.stderr is None else 100 * estimate.stderr
    return Estimate(100 * estimate.value, stderr, estimate.n)
