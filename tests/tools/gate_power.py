"""How often the gate is right: made-up gates, judged by the gate's own functions, and the table of its error rates.

    python tests/tools/gate_power.py --gates 2000 [--jobs 16] [--policy default] [--scenario quiet]

Rows have the docs and values of SmolLM2-135M-Instruct on its card. An unchanged candidate's answers flip as often as
between equivalent copies of a model (quiet), or more often (noisy). Choices are drawn as margins: the candidate's are
correlated with the baseline's, so that as many docs flip as is said; a drop shifts them. Reference answers likewise.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

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
REFERENCED = (*SCORED, "BBH", "GSM8K")
POLICIES = {"default": Policy(), **{f"max_drop {d}": Policy(Rule(max_drop=d)) for d in (1, 2, 4)}}


CHUNK = 20  # gates that a process makes at a time


class Kind(NamedTuple):
    """A kind of gate: its policy's name, whether it measures its candidate, and whether gold answers count."""

    policy: str
    early: bool
    both: bool


class Row:
    """A made-up row of a candidate that truly lost `drop` (a fraction), beside as many flips either way as `flips`.

    `shift`: the drop moves all margins a little, as damage does; else docs are lost at random, whatever their margin,
    which is the noisier of the two, and which gold answers do not show.
    """

    def __init__(
        self, generator: np.random.Generator, label: str, flips: float, drop: float = 0.0, shift: bool = True
    ) -> None:
        self.label, self.sizes = label, SIZES[label]
        n, value = sum(self.sizes), VALUES[label]
        middle = special.ndtri(value)
        own = min(0.9, flips / 0.798 / (np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)))
        first = generator.standard_normal(n)
        after = np.sqrt(1 - own**2) * first + own * generator.standard_normal(n)
        after += special.ndtri(value - drop if shift else value)
        if not shift and label in SCORED:
            after = np.where((after > 0) & (generator.random(n) < drop / value), -after, after)
        margins = first + middle, after
        if label in SCORED:
            right = [one > 0 for one in margins]
        else:
            before, lost = generator.random(n) < value, generator.random(n) < (flips / 2 + drop) / value
            right = [before, np.where(before, ~lost, generator.random(n) < flips / 2 / (1 - value))]
        self.right = [self._split(one) for one in right]
        self.soft = (
            [self._split(special.ndtr(one / WIDTH)) for one in margins] if label in REFERENCED else None
        )
        self._known: dict[int | None, Evidence] = {}

    def _split(self, values: np.ndarray) -> list[np.ndarray]:
        return np.split(values.astype(float), np.cumsum(self.sizes)[:-1])

    def _ordered(self, sides: Sequence[Sequence[np.ndarray]]) -> Drawn:
        order, total = interleaved(self.sizes), sum(self.sizes)
        losses = np.empty(total)
        for k, (one, two) in enumerate(zip(*sides, strict=True)):
            losses[order == k] = 100 * (one - two) * total / len(self.sizes) / len(one)
        return Drawn(losses, 100 * total / len(self.sizes) / min(self.sizes), total)

    @functools.cached_property
    def _orders(self) -> list[Drawn]:
        return [self._ordered(sides) for sides in (self.right, self.soft) if sides is not None]

    def evidence(self, docs: int | None, both: bool) -> Evidence:
        """On the first `docs` of the gate's order, or on a whole run's."""
        if docs not in self._known:
            self._known[docs] = self._evidence(
                self.sizes if docs is None else docs_of_tasks(self.sizes, docs), docs
            )
        one = self._known[docs]
        return one if both else replace(one, soft=None, gold=None, soft_drawn=None)

    def _evidence(self, ends: Sequence[int], docs: int | None) -> Evidence:
        one, two = ([part[:end] for part, end in zip(side, ends, strict=True)] for side in self.right)
        resamples = RESAMPLES if list(ends) == list(self.sizes) else 2
        difference = significance.paired_difference(one, two, scale=100, resamples=resamples)
        values = [100 * sum(part.mean() for part in side) / len(side) for side in (one, two)]
        soft, gold, drawn = None, None, []
        if self.soft is not None:
            parts = [(b - a)[:end] for a, b, end in zip(*self.soft, ends, strict=True)]
            mean = 100 * sum(part.mean() for part in parts) / len(parts)
            error = 100 * np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / len(parts)
            soft, gold = Estimate(float(mean), float(error), sum(ends)), Gold(0.0, -1.0, 1.0, 0, 0)
        if docs is not None:
            n = reached(self.sizes, ends)
            drawn = [Drawn(order.losses[:n], order.bound, order.total) for order in self._orders]
        return Evidence(metric_of(self.label), *values, difference, soft, gold, *drawn)


def metric_of(label: str) -> Any:
    return get_metric("acc_norm_nospace" if label in SCORED else "exact_match")


@functools.lru_cache(maxsize=64)
def plan_of(kind: Kind) -> dict[str, Planned]:
    """The gate's plan for these rows."""
    policy, plan = POLICIES[kind.policy], {}
    for label, sizes in SIZES.items():
        metric, value, rule = metric_of(label), VALUES[label], policy.rule(label)
        scores = [np.arange(n) < value * n for n in sizes]
        noise = expected_noise(metric, scores, [1 / len(sizes)] * len(sizes))
        allowed = rule.allowed(metric, 100 * value)
        evidence = "both" if kind.both and label in REFERENCED else "accuracy"
        plan[label] = Planned(
            label, metric, rule, 100 * value, sum(sizes), noise, allowed, evidence=evidence, early=kind.early
        )
    return complete(plan, policy)


@functools.lru_cache(maxsize=512)
def stated_drop(kind: Kind, label: str, noise: str) -> float:
    """The true loss that the gate says it finds, at the noise that its docs have, as a fraction."""
    sizes = SIZES[label]
    share = sum(1 / len(sizes) ** 2 / n for n in sizes)
    return plan_of(kind)[label].detectable(Noise(1e4 * FLIPS[noise][label] * share, share)) / 100


class Candidate:
    """A made-up candidate: its rows are drawn when they are asked for, always the same ones."""

    def __init__(self, name: str, number: int, seed: int) -> None:
        self.name, self._seed = name, [seed, number, *name.encode()]
        self.noise = "noisy" if "noisy" in name else "quiet"
        self._one = np.random.default_rng(self._seed).random()
        self._rows: dict[tuple[str, float], Row] = {}

    def lost(self, kind: Kind) -> str:
        """The row that lost something, if only one did: one that counts."""
        decisive = [label for label in SIZES if not plan_of(kind)[label].blind]
        return decisive[int(self._one * len(decisive))]

    def row(self, label: str, kind: Kind) -> Row:
        """A row; what it lost may depend on what the gate says that it finds."""
        drop = 0.0
        if self.name == "4 in all":
            drop = min(0.04, VALUES[label] * 0.9)
        elif self.name not in FLIPS and label == self.lost(kind):
            drop = 0.04 if self.name == "4 in one" else stated_drop(kind, label, self.noise)
        if (label, drop) not in self._rows:
            generator = np.random.default_rng([*self._seed, *label.encode()])
            shift = not self.name.startswith("stated")
            self._rows[label, drop] = Row(generator, label, FLIPS[self.noise][label], drop, shift)
        return self._rows[label, drop]


def run_gate(row_of: Callable[[str], Row], kind: Kind) -> tuple[GateResult, float]:
    """One gate's result, and the share of the docs that it looked at."""
    plan, policy, seen = plan_of(kind), POLICIES[kind.policy], {}

    def measure(label: str, n: int | None) -> Evidence:
        seen[label] = n or sum(SIZES[label])
        return row_of(label).evidence(n, kind.both)

    if kind.early:
        rows = run_stages(plan, measure)
    else:
        rows = judge(plan, {label: measure(label, None) for label in SIZES})
    result = GateResult(None, None, policy, tuple(rows.values()), (), kind.early)  # type: ignore[arg-type]
    return result, sum(seen.values()) / sum(map(sum, SIZES.values()))


Found = tuple[str, bool, float]
"""Of a gate: its verdict, whether the row that lost was found, and the share of docs looked at."""


def gates(name: str, kinds: Sequence[Kind], numbers: Sequence[int], seed: int = 1) -> dict[Kind, list[Found]]:
    """Gates of each kind on the same candidates: "quiet", "noisy" (nothing changed), "stated quiet", "stated noisy"
    (one row lost what the gate says it finds), "4 in one" and "4 in all" (points, quiet).
    """
    found: dict[Kind, list[Found]] = {kind: [] for kind in kinds}
    for number in numbers:
        candidate = Candidate(name, number, seed)
        for kind in kinds:
            result, share = run_gate(functools.partial(candidate.row, kind=kind), kind)
            lost = candidate.lost(kind)
            own = any(row.label == lost and row.verdict == REGRESSION for row in result.rows)
            found[kind].append((result.verdict, own, share))
    return found


def shares(found: Sequence[Found]) -> dict[str, float]:
    """The shares of the verdicts, of gates that found the row that lost ("own"), and the median of the docs."""
    verdicts = [verdict for verdict, _, _ in found]
    every = {word: verdicts.count(word) / len(found) for word in (PASS, REGRESSION, INCONCLUSIVE)}
    docs = float(np.median([share for *_, share in found]))
    return every | {"own": sum(own for _, own, _ in found) / len(found), "docs": docs}


def scenario(name: str, kind: Kind, count: int) -> dict[str, float]:
    """The shares of so many gates."""
    return shares(gates(name, [kind], range(count))[kind])


NAMES = ("quiet", "noisy", "stated quiet", "stated noisy", "4 in one", "4 in all")
HEADER = "| policy | gate | evidence | candidate | PASS | REGRESSION | INCONCLUSIVE | own row found | docs (median) |"


def line(name: str, kind: Kind, found: Sequence[Found]) -> str:
    one, way, evidence = shares(found), ("whole", "early")[kind.early], ("accuracy", "both")[kind.both]
    own = "" if name in (*FLIPS, "4 in all") else f"{one['own']:.1%}"
    verdicts = " | ".join(f"{one[word]:.1%}" for word in (PASS, REGRESSION, INCONCLUSIVE))
    return f"| {kind.policy} | {way} | {evidence} | {name} | {verdicts} | {own} | {one['docs']:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gates", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--policy", choices=list(POLICIES), action="append")
    parser.add_argument("--mode", choices=("whole", "early"), action="append")
    parser.add_argument("--evidence", choices=("accuracy", "both"), action="append")
    parser.add_argument("--scenario", choices=NAMES, action="append")
    args = parser.parse_args()
    ways = [mode == "early" for mode in args.mode or ("whole", "early")]
    evidence = [one == "both" for one in args.evidence or ("accuracy", "both")]
    kinds = [Kind(*one) for one in product(args.policy or POLICIES, ways, evidence)]
    chunks = [range(args.gates)[first : first + CHUNK] for first in range(0, args.gates, CHUNK)]
    start = time.monotonic()
    print(HEADER, "|" + ":--|" * 4 + "--:|" * 5, sep="\n")
    with ProcessPoolExecutor(args.jobs) as pool:
        for name in args.scenario or NAMES:
            parts = list(pool.map(functools.partial(gates, name, kinds), chunks))
            for kind in kinds:
                print(line(name, kind, [one for part in parts for one in part[kind]]), flush=True)
    print(f"\n{args.gates} gates a line, {time.monotonic() - start:.0f} s, {args.jobs} processes")


if __name__ == "__main__":
    main()
