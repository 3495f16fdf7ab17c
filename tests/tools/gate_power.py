"""How often the gate is right: made-up gates, judged by the gate's own functions, and the table of its error rates.

    python tests/tools/gate_power.py --gates 2000 --policy default

Rows have the docs and values of SmolLM2-135M-Instruct on its card. An unchanged candidate's answers flip as often as
between equivalent copies of a model (quiet), or more often (noisy). Choices are drawn as margins: the candidate's are
correlated with the baseline's, so that as many docs flip as is said; a drop shifts them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.core.metric import get_metric
from evals.core.statistics import Estimate
from reports import significance
from reports.gate.betting import Drawn, interleaved
from reports.gate.evidence import Evidence, docs_of_tasks, reached
from reports.gate.gold import Gold
from reports.gate.planning import Planned, complete, expected_noise
from reports.gate.policy import Policy, Rule
from reports.gate.stages import run_stages
from reports.gate.verdict import INCONCLUSIVE, PASS, REGRESSION, GateResult, judge
from reports.significance import Noise

WIDTH = 0.5  # of soft accuracy, for margins of variance one
RESAMPLES = 1000  # of the bootstrap: p goes down to 0.001, and rows are judged at 0.005
SIZES = {"HellaSwag": (10042,), "ARC": (2376, 1172), "PIQA": (1838,), "MMLU": (14042,)}
SIZES |= {"IFEval": (541,), "BBH": (241,) * 27, "GSM8K": (1319,)}
VALUES = dict(zip(SIZES, (0.409, 0.373, 0.663, 0.293, 0.299, 0.282, 0.018), strict=True))
FLIPS = {
    "quiet": dict(zip(SIZES, (0.01, 0.015, 0.01, 0.01, 0.08, 0.03, 0.005), strict=True)),
    "noisy": dict(zip(SIZES, (0.08, 0.08, 0.08, 0.08, 0.26, 0.08, 0.015), strict=True)),
}
SCORED = ("HellaSwag", "ARC", "PIQA", "MMLU")
POLICIES = {"default": Policy(), **{f"max_drop {d}": Policy(Rule(max_drop=d)) for d in (1, 2, 4)}}


@dataclass(frozen=True)
class Docs:
    """A row's docs by task, right or wrong before and after, and soft accuracies where choices are scored."""

    before: list[np.ndarray]
    after: list[np.ndarray]
    soft: tuple[list[np.ndarray], list[np.ndarray]] | None


def metric_of(label: str) -> Any:
    return get_metric("acc_norm_nospace" if label in SCORED else "exact_match")


def drawn_row(
    generator: np.random.Generator, label: str, flips: float, drop: float, shift: bool = True
) -> Docs:
    """A row of a candidate that truly lost `drop` (a fraction), beside as many flips either way as `flips` says.

    `shift`: the drop moves all margins a little, as damage does; else docs are lost at random, whatever their margin,
    which is the noisier of the two.
    """
    sizes, value = SIZES[label], VALUES[label]
    n = sum(sizes)
    if label not in SCORED:
        before = generator.random(n) < value
        lost = generator.random(n) < (flips / 2 + drop) / value
        won = generator.random(n) < flips / 2 / (1 - value)
        return Docs(_split(before, sizes), _split(np.where(before, ~lost, won), sizes), None)
    middle = special.ndtri(value)
    own = min(0.9, flips / 0.798 / (np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)))
    first = generator.standard_normal(n)
    second = np.sqrt(1 - own**2) * first + own * generator.standard_normal(n)
    after = second + special.ndtri(value - drop if shift else value)
    if not shift:
        after = np.where((after > 0) & (generator.random(n) < drop / value), -after, after)
    margins = first + middle, after
    right, soft = ([_split(one, sizes) for one in map(f, margins)] for f in (_right, _soft))
    return Docs(*right, (soft[0], soft[1]))


def _right(margins: np.ndarray) -> np.ndarray:
    return margins > 0


def _soft(margins: np.ndarray) -> np.ndarray:
    return special.ndtr(margins / WIDTH)


def _split(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(values.astype(float), np.cumsum(sizes)[:-1])


def in_order(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Drawn:
    """All docs of a row in the gate's order."""
    sizes = tuple(map(len, before))
    order, total = interleaved(sizes), sum(sizes)
    losses = np.empty(total)
    for k, (one, two) in enumerate(zip(before, after, strict=True)):
        losses[order == k] = 100 * (one - two) * total / len(sizes) / len(one)
    return Drawn(losses, 100 * total / len(sizes) / min(sizes), total)


def evidence_of(
    label: str, docs: Docs, both: bool, counts: Sequence[int] | None, orders: list[Drawn]
) -> Evidence:
    """A row's evidence on all docs, or on the first `counts` of each task."""
    ends = counts or SIZES[label]
    one, two = (
        [part[:end] for part, end in zip(side, ends, strict=True)] for side in (docs.before, docs.after)
    )
    resamples = RESAMPLES if counts is None or list(counts) == list(SIZES[label]) else 2
    difference = significance.paired_difference(one, two, scale=100, resamples=resamples)
    weights = [100 / len(one)] * len(one)
    values = [sum(w * part.mean() for w, part in zip(weights, side, strict=True)) for side in (one, two)]
    soft, gold = None, None
    if both and docs.soft is not None:
        parts = [(b - a)[:end] for a, b, end in zip(*docs.soft, ends, strict=True)]
        mean = sum(w * part.mean() for w, part in zip(weights, parts, strict=True))
        variance = sum(w * w * part.var(ddof=1) / len(part) for w, part in zip(weights, parts, strict=True))
        soft, gold = Estimate(float(mean), float(np.sqrt(variance)), sum(ends)), Gold(0.0, -1.0, 1.0, 0, 0)
    drawn = [Drawn(order.losses[: reached(SIZES[label], ends)], order.bound, order.total) for order in orders]
    return Evidence(metric_of(label), *values, difference, soft, gold, *(drawn if counts is not None else []))


def plan_of(policy: Policy, both: bool, early: bool) -> dict[str, Planned]:
    """The gate's plan for these rows."""
    plan = {}
    for label, sizes in SIZES.items():
        metric, value = metric_of(label), VALUES[label]
        scores = [np.arange(n) < value * n for n in sizes]
        rule = policy.rule(label)
        plan[label] = Planned(
            label, metric, rule, 100 * value, sum(sizes), expected_noise(metric, scores, [1 / len(sizes)] * len(sizes)),
            rule.allowed(metric, 100 * value), finer=both and label in SCORED, early=early,
        )  # fmt: skip
    return complete(plan, policy)


def stated_drop(planned: Planned, flips: float) -> float:
    """The true loss that the gate says it finds, at the noise that its docs have, as a fraction."""
    sizes = SIZES[planned.label]
    share = sum(1 / len(sizes) ** 2 / n for n in sizes)
    return planned.detectable(Noise(1e4 * flips * share, share)) / 100


def run_gate(data: Mapping[str, Docs], policy: Policy, both: bool, early: bool) -> tuple[GateResult, float]:
    """One gate's result, and the share of the docs that it looked at."""
    plan = plan_of(policy, both, early)
    orders = {}
    if early:
        for label, docs in data.items():
            orders[label] = [in_order(docs.before, docs.after)]
            if both and docs.soft is not None:
                orders[label].append(in_order(*docs.soft))
    seen: dict[str, int] = {}

    def measure(label: str, n: int) -> Evidence:
        seen[label] = n
        return evidence_of(label, data[label], both, docs_of_tasks(SIZES[label], n), orders[label])

    if early:
        rows = run_stages(plan, measure, policy)
    else:
        whole = {label: evidence_of(label, docs, both, None, []) for label, docs in data.items()}
        rows = judge(plan, whole, policy)
    total = sum(map(sum, SIZES.values()))
    result = GateResult(None, None, policy, tuple(rows.values()), (), early)  # type: ignore[arg-type]
    return result, (sum(seen.values()) if early else total) / total


def scenario(
    name: str, policy: Policy, both: bool, early: bool, gates: int, seed: int = 1
) -> dict[str, float]:
    """Shares of `gates` made-up gates: "quiet", "noisy" (nothing changed), "stated quiet", "stated noisy" (one row lost
    what the gate says it finds), "4 in one" and "4 in all" (points, quiet).
    """
    generator = np.random.default_rng([seed, *name.encode()])
    noise = "noisy" if "noisy" in name else "quiet"
    plan = plan_of(policy, both, early)
    decisive = [label for label in SIZES if not plan[label].blind]
    found, docs_seen = [], []
    for _ in range(gates):
        drops = dict.fromkeys(SIZES, 0.0)
        lost = decisive[generator.integers(len(decisive))]
        if name == "4 in all":
            drops = {label: min(0.04, VALUES[label] * 0.9) for label in SIZES}
        elif name not in FLIPS:
            drops[lost] = 0.04 if name == "4 in one" else stated_drop(plan[lost], FLIPS[noise][lost])
        shift = not name.startswith("stated")
        data = {one: drawn_row(generator, one, FLIPS[noise][one], drops[one], shift) for one in SIZES}
        result, share = run_gate(data, policy, both, early)
        own = next(row for row in result.rows if row.label == lost)
        found.append((result.verdict, own.verdict == REGRESSION))
        docs_seen.append(share)
    verdicts = [verdict for verdict, _ in found]
    shares = {word: verdicts.count(word) / gates for word in (PASS, REGRESSION, INCONCLUSIVE)}
    return shares | {"own": sum(own for _, own in found) / gates, "docs": float(np.median(docs_seen))}


NAMES = ("quiet", "noisy", "stated quiet", "stated noisy", "4 in one", "4 in all")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gates", type=int, default=2000)
    parser.add_argument("--policy", choices=list(POLICIES), action="append")
    parser.add_argument("--mode", choices=("whole", "early"), action="append")
    parser.add_argument("--evidence", choices=("accuracy", "both"), action="append")
    parser.add_argument("--scenario", choices=NAMES, action="append")
    args = parser.parse_args()
    print(
        "| policy | gate | evidence | candidate | PASS | REGRESSION | INCONCLUSIVE | own row found | docs (median) |"
    )
    print("|" + ":--|" * 4 + "--:|" * 5)
    for policy in args.policy or POLICIES:
        for mode in args.mode or ("whole", "early"):
            for evidence in args.evidence or ("accuracy", "both"):
                for name in args.scenario or NAMES:
                    one = scenario(name, POLICIES[policy], evidence == "both", mode == "early", args.gates)
                    own = "" if name in (*FLIPS, "4 in all") else f"{one['own']:.1%}"
                    shares = " | ".join(f"{one[word]:.1%}" for word in (PASS, REGRESSION, INCONCLUSIVE))
                    print(
                        f"| {policy} | {mode} | {evidence} | {name} | {shares} | {own} | {one['docs']:.1%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
