"""Is B better than A? Row by row and task by task, on the docs that both runs answered; C and others alike."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from evals.core import statistics
from evals.core.errors import UserError
from evals.core.metric import Metric
from evals.core.statistics import Array, Estimate
from reports import significance
from reports.card import DASH, plus_minus, signed
from reports.comparability import CIRCUMSTANCES, Mismatch, mismatches
from reports.flips import changed_docs, doc_losses, find_flips, flips_markdown
from reports.margins import USUAL, Tolerance
from reports.render.tables import Cell, Footnotes, Table, cells, json_text, markdown, markdown_text, one_line
from reports.runs import RowResult, Run, shared_columns
from reports.significance import Difference

NAMED = 4
"""Rows that a sentence names one by one."""
WORSE, BETTER, EQUAL, OPEN, UNKNOWN = "worse", "better", "equal", "open", "not compared"


@dataclass(frozen=True)
class Pair:
    """A row or task in both runs, on their shared docs. Values in the row's unit; `p` is Holm's, over its table.

    `kind`: WORSE, BETTER, EQUAL, OPEN or UNKNOWN. `mde`: the true difference that the table shows in this row in four
    of five cases. `docs`: (worse, better) ones by their own scores.
    """

    label: str
    metric: Metric
    first: float | None
    second: float | None
    difference: Difference | None
    p: float | None
    verdict: str
    mde: float | None = None
    kind: str = UNKNOWN
    docs: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Comparison:
    """One run (`name`: "B") against the first one. `tests`: how many rows Holm's correction goes over."""

    name: str
    first: Run
    second: Run
    mismatches: tuple[Mismatch, ...]
    rows: tuple[Pair, ...]
    tasks: tuple[Pair, ...]
    mean: Pair | None
    tests: int
    task_tests: int

    @property
    def sentence(self) -> str:
        """What came out, in one sentence."""
        counts = {kind: sum(one.kind == kind for one in self.rows) for kind in (EQUAL, OPEN, UNKNOWN)}
        text = (
            f"{self.name} is worse in {self._named(WORSE, f' of {len(self.rows)} rows')}, "
            f"better in {self._named(BETTER)}, equal in {counts[EQUAL]}, open in {counts[OPEN]}"
        )
        text += f", not compared in {counts[UNKNOWN]}" if counts[UNKNOWN] else ""
        if self.mean is None or self.mean.difference is None:
            return f"{text}."
        d = self.mean.difference
        return f"{text}; {self.mean.label.lower()} {signed(d.value, 2)}{plus_minus((d.low, d.high), 2)}."

    def _named(self, kind: str, of: str = "") -> str:
        """How many rows are of a kind, and which where that says more."""
        labels = [one.label for one in self.rows if one.kind == kind]
        more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
        every = len(labels) == len(self.rows) > 1
        return f"{len(labels)}{of}" + ("" if every or not labels else f" ({', '.join(labels[:NAMED])}{more})")


def check_suites(first: Run, second: Run) -> None:
    """Refuses runs of different suites: their rows of one name are different measurements."""
    if first.suite != second.suite:
        raise UserError(
            f"'{first.folder}' is of the suite {first.suite}, '{second.folder}' of {second.suite}: "
            "compare runs of one suite"
        )


# --- the comparison ---


def on_shared_docs(
    first: Run, second: Run, row: RowResult, tasks: Sequence[str], any_prompt: bool = False
) -> tuple[float, float, Difference] | None:
    """Both values over these tasks of a row and second less first, in its unit; None when they share no scored doc."""
    found = [shared_columns(first, second, task, any_prompt) for task in tasks]
    shared = [pair for pair in found if pair is not None]
    if not shared or len(shared) < len(found):
        return None
    metric = row.metric
    one, two = (statistics.row_strata(metric, [pair[side] for pair in shared]) for side in (0, 1))
    if one is None or two is None:
        return None
    changed = sum(int(np.sum(changed_docs(metric, *pair))) for pair in shared)
    difference = significance.paired_difference(
        one[0], two[0], weights=one[1], scale=metric.scale, changed=changed, higher_is_better=metric.higher_is_better
    )  # fmt: skip
    return _value(metric, *one), _value(metric, *two), difference


def _value(metric: Metric, scores: Sequence[Array], weights: Sequence[float]) -> float:
    return metric.scale * statistics.weighted_sum([statistics.mean(one) for one in scores], weights).value


def compare_runs(runs: Sequence[Run], tolerance: Tolerance = USUAL) -> list[Comparison]:
    """Every other run against the first; verdicts are corrected for all rows of all runs. Raises UserError."""
    first, *others = runs
    if not 1 <= len(others) < len(string.ascii_uppercase):
        raise UserError(f"compare takes 2 to {len(string.ascii_uppercase)} runs, not {len(runs)}")
    for other in others:
        check_suites(first, other)
    named = dict(zip(string.ascii_uppercase[1:], others, strict=False))
    rows = _corrected({name: _rows(first, other, name) for name, other in named.items()}, tolerance)
    tasks = _corrected({name: _tasks(first, other, name) for name, other in named.items()}, tolerance)
    tests, task_tests = (
        sum(one.p is not None for group in found.values() for one in group) for found in (rows, tasks)
    )
    return [
        Comparison(
            name, first, other, tuple(mismatches(first, other)), rows[name], tasks[name],
            _mean(rows[name], name, tolerance), tests, task_tests,
        )
        for name, other in named.items()
    ]  # fmt: skip


def _rows(first: Run, second: Run, name: str) -> list[Pair]:
    """Every row that either run has, in A's order."""
    rows = {row.label: row for run in (second, first) for row in run.rows}
    order = dict.fromkeys([row.label for run in (first, second) for row in run.rows])
    return [_pair(first, second, name, label, rows[label], rows[label].tasks) for label in order]


def _tasks(first: Run, second: Run, name: str) -> list[Pair]:
    """Every task of the rows that average several."""
    rows = [row for row in first.rows if len(row.tasks) > 1]
    return [_pair(first, second, name, task, row, (task,)) for row in rows for task in row.tasks]


def _pair(first: Run, second: Run, name: str, label: str, row: RowResult, tasks: Sequence[str]) -> Pair:
    measured = on_shared_docs(first, second, row, tasks)
    if measured is None:
        return Pair(label, row.metric, None, None, None, None, _why_not(first, second, name, tasks))
    shared = [pair for task in tasks if (pair := shared_columns(first, second, task)) is not None]
    losses = np.concatenate([doc_losses(row.metric, *pair) for pair in shared])
    docs = int(np.sum(losses > 0)), int(np.sum(losses < 0))
    return Pair(label, row.metric, *measured, None, "", docs=docs)


def _why_not(first: Run, second: Run, name: str, tasks: Sequence[str]) -> str:
    for side, run in (("A", first), (name, second)):
        missing = [task for task in tasks if task not in run.tasks]
        if missing:
            return f"{side} has no {missing[0]}"
    return "no doc with the same prompt and a score in both"


def _corrected(groups: dict[str, list[Pair]], tolerance: Tolerance) -> dict[str, tuple[Pair, ...]]:
    """Holm's p, the detectable difference and the verdict of every pair, for the tests of all groups together."""
    tested = [one.difference.p for group in groups.values() for one in group if one.difference is not None]
    adjusted = iter(significance.holm(tested))
    # Holm's first step, one of two sides: what a single row's difference has to pass
    level = tolerance.alpha / 2 / max(1, len(tested))

    def corrected(one: Pair) -> Pair:
        if one.difference is None:
            return one
        return replace(
            one, p=next(adjusted), mde=significance.detectable(one.difference, one.metric.reach, level)
        )

    return {
        name: tuple(_judged(corrected(one), name, tolerance) for one in group)
        for name, group in groups.items()
    }


def _judged(one: Pair, name: str, tolerance: Tolerance) -> Pair:
    """The pair with its verdict, where there is a difference to judge."""
    difference = one.difference
    if difference is None or one.first is None:
        return one
    margin = tolerance.margin(one.metric, one.first)
    near = significance.equivalence(difference.value, difference.stderr, margin) < tolerance.alpha
    within = f"(within ±{margin:.2g})"
    if difference.changed == 0:
        return replace(one, kind=EQUAL, verdict="same on every doc")
    if one.p is not None and one.p < tolerance.alpha:
        kind = WORSE if one.metric.loss(0, difference.value) > 0 else BETTER
        return replace(one, kind=kind, verdict=f"{name} is {kind}" + f" {within}" * near)
    if near:
        return replace(one, kind=EQUAL, verdict=f"equivalent {within}")
    would = "" if one.mde is None else f" (a difference of {one.mde:.{one.metric.digits}f} would show)"
    return replace(one, kind=OPEN, verdict=f"cannot tell{would}")


def _mean(rows: Sequence[Pair], name: str, tolerance: Tolerance) -> Pair | None:
    """The mean over the rows (significance.MEAN_WORDS), judged by itself; None for fewer than two rows."""
    known = [(one, one.difference) for one in rows if one.difference is not None and one.metric.in_percent]
    if len(known) < 2:
        return None
    first, second = (
        statistics.average([Estimate(getattr(one, side), None, 0) for one, _ in known]).value
        for side in ("first", "second")
    )
    mean = statistics.average([difference.estimate for _, difference in known])
    difference = significance.of_estimate(mean, sum(difference.changed for _, difference in known))
    worse, better = (sum(one.docs[side] for one, _ in known) for side in (0, 1))
    label, metric = f"Mean of {len(known)} rows", known[0][0].metric
    pair = Pair(label, metric, first, second, difference, difference.p, "", docs=(worse, better))
    return _judged(pair, name, tolerance)


# --- output ---


def as_markdown(runs: Sequence[Run], flips: int = 0, tolerance: Tolerance = USUAL) -> str:
    """The comparison as markdown: what came out, what sets the runs apart, rows, tasks, and the docs that changed."""
    found = compare_runs(runs, tolerance)
    names = [f"A = {_named(runs[0])}", *(f"{one.name} = {_named(one.second)}" for one in found)]
    blocks = [f"# {runs[0].suite}: {', '.join(names)}", ""]
    blocks += [f"**{markdown_text(one.sentence)}**\n" for one in found]
    blocks += [line for one in found for line in _apart(one)] + [""]
    if len(found) > 1:
        blocks.append(markdown(_overview(found)))
    for one in found:
        which = f"{one.name} against A: " if len(found) > 1 else ""
        blocks.append(markdown(_table(one, f"{which}Rows", "Row", one.rows, one.tests, tolerance)))
        if one.tasks:
            title = f"{which}Tasks of the rows that average several"
            blocks.append(markdown(_table(one, title, "Task", one.tasks, one.task_tests, tolerance)))
        if flips:
            blocks.append(flips_markdown(one.first, one.second, flips, one.name))
    return "\n".join(blocks)


def _apart(one: Comparison) -> list[str]:
    """What sets two runs apart, and whether their weights are the same."""
    lines = []
    prints = [run.model.fingerprint for run in (one.first, one.second)]
    if prints[0] is not None and prints[0] == prints[1]:
        lines.append(f"same weights: A and {one.name} have the fingerprint {prints[0][:19]}…")
    for found in one.mismatches:
        warning = "" if found.code in CIRCUMSTANCES else "not the same measurement: "
        lines.append(f"{warning}{found.text}" + (f" ({one.name})" if one.name != "B" else ""))
    return [f"- {markdown_text(line)}" for line in lines]


def _named(run: Run) -> str:
    words = [run.name, run.model.quantization, run.model.dtype, f"({run.folder.name})"]
    return markdown_text(one_line(" ".join(word for word in words if word)))


def _overview(found: Sequence[Comparison]) -> Table:
    """All runs side by side: the first one's value, and the others' differences with their 95 % intervals."""
    by_label = [{pair.label: pair for pair in (*one.rows, one.mean) if pair} for one in found]
    lines = []
    for label in dict.fromkeys(label for pairs in by_label for label in pairs):
        pairs = [pairs.get(label) for pairs in by_label]
        known = [f"{p.first:.{p.metric.digits}f}" for p in pairs if p and p.first is not None]
        lines.append((Cell(label), Cell(known[0] if known else DASH), *map(_short, pairs)))
    header = cells("Row", "A", *(f"{one.name} − A" for one in found))
    remark = "± is half the width of the difference's 95 % interval; bold: real after Holm's correction"
    return Table("All runs", header, tuple(lines), remarks=(remark,))


def _short(pair: Pair | None) -> Cell:
    if pair is None or pair.difference is None:
        return Cell(DASH)
    d, digits = pair.difference, pair.metric.digits + 1
    text = f"{signed(d.value, digits)}{plus_minus((d.low, d.high), digits)}"
    return Cell(text, bold=pair.kind in (WORSE, BETTER))


def _table(
    one: Comparison, title: str, first_column: str, pairs: Sequence[Pair], tests: int, tolerance: Tolerance
) -> Table:
    notes = Footnotes()
    header = (first_column, "A", one.name, f"{one.name} − A", "95 % interval", "Docs worse / better", "Docs",
              "p (Holm)", "MDE", "Verdict")  # fmt: skip
    lines = [cells_of(pair, notes) for pair in pairs]
    remarks = [
        f"Docs worse / better: the docs whose own score turned worse or better from A to {one.name}",
        f"p: Holm's correction over {tests} tests, the rows of {'this table' if tests <= len(pairs) else 'all runs'}",
        "MDE: the smallest true difference that is found here in four of five cases (80 % power), Holm counted",
        f"Verdict: {tolerance.words}; equivalent, if two one-sided tests at that alpha place the difference within the "
        "margin. The interval and both tests cover the choice of docs, on the docs that both runs answered",
    ]
    if one.mean is not None and pairs is one.rows:
        lines.append(cells_of(one.mean, notes))
        remarks.append(f"{one.mean.label}: {significance.MEAN_WORDS}; its p stands outside Holm's correction")
    return Table(title, cells(*header), tuple(lines), tuple(notes.texts), tuple(remarks))


def cells_of(one: Pair, notes: Footnotes | None = None) -> tuple[Cell, ...]:
    """A row's cells: label, A, B, difference, interval, docs worse and better, docs, p, MDE, verdict."""
    notes = notes or Footnotes()
    d, digits = one.difference, one.metric.digits
    if d is None or one.p is None:
        return cells(one.label, *[DASH] * 8, one.verdict)
    changed = f" ({d.changed} changed)" if d.changed > sum(one.docs) else ""
    return (
        *cells(one.label, f"{one.first:.{digits}f}", f"{one.second:.{digits}f}", signed(d.value, digits + 1)),
        Cell(f"{signed(d.low, digits + 1)} to {signed(d.high, digits + 1)}"),
        Cell(f"{one.docs[0]} / {one.docs[1]}{changed}"),
        Cell(str(d.n)),
        Cell("≤ 0.001" if one.p < 0.001 else f"{one.p:.3f}", marks=(notes.mark(TESTS.get(d.test, d.test)),)),
        Cell(DASH if one.mde is None else f"{one.mde:.{digits + 1}f}"),
        Cell(one.verdict),
    )


TESTS = {
    "exact McNemar": "exact McNemar test on the docs whose score changed",
    "paired bootstrap": "paired bootstrap over docs within each task",
    "z": "z test, by the rows' paired errors",
}


def as_json(runs: Sequence[Run], flips: int = 0, tolerance: Tolerance = USUAL) -> str:
    """The comparison as JSON, numbers unrounded: an object; a list of them for more than two runs."""
    found = [_comparison(one, flips) for one in compare_runs(runs, tolerance)]
    return json_text(found if len(found) > 1 else found[0])


def _comparison(one: Comparison, flips: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "suite": one.first.suite,
        "summary": one.sentence,
        "first": one.first.about(),
        "second": one.second.about(),
        "mismatches": [asdict(found) for found in one.mismatches],
        "holm_tests": one.tests,
        "rows": [_plain(pair) for pair in one.rows],
        "mean": None if one.mean is None else _plain(one.mean),
        "tasks": [_plain(pair) for pair in one.tasks],
    }
    if flips:
        data["flips"] = [asdict(flip) for flip in find_flips(one.first, one.second, flips)]
    return data


def _plain(one: Pair) -> dict[str, Any]:
    """A pair as a record; what one doc cannot tell is null."""
    entry: dict[str, Any] = {
        "label": one.label, "metric": one.metric.name, "first": one.first, "second": one.second, "difference": None,
        "p": one.p, "kind": one.kind, "verdict": one.verdict,
    }  # fmt: skip
    if (d := one.difference) is not None:
        numbers = {
            "value": d.value, "stderr": d.stderr, "low": d.low, "high": d.high, "p": d.p, "p_worse": d.p_worse,
            "n": d.n, "changed": d.changed, "test": d.test, "worse": one.docs[0], "better": one.docs[1], "mde": one.mde,
        }  # fmt: skip
        unknown = [name for name, value in numbers.items() if isinstance(value, float) and math.isinf(value)]
        entry["difference"] = numbers | dict.fromkeys(unknown)
    return entry
