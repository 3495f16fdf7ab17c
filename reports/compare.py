"""Is B better than A? Row by row and task by task, on the docs that both runs answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from evals.core import statistics
from evals.core.errors import UserError
from evals.core.metric import Metric
from evals.core.statistics import Array
from reports import significance
from reports.card import DASH, signed
from reports.comparability import CIRCUMSTANCES, Mismatch, mismatches
from reports.flips import changed_docs, find_flips, flips_markdown
from reports.margins import USUAL, Tolerance
from reports.render.tables import Cell, Footnotes, Table, markdown, markdown_text, one_line
from reports.runs import RowResult, Run, shared_columns
from reports.significance import Difference


@dataclass(frozen=True)
class Pair:
    """A row or task in both runs, on their shared docs. Values in the row's unit; `p` is Holm's, over its table.

    `mde`: the true difference that the table shows in this row in four of five cases.
    """

    label: str
    metric: Metric
    first: float | None
    second: float | None
    difference: Difference | None
    p: float | None
    verdict: str
    mde: float | None = None


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
    difference = significance.paired_difference(
        one[0],
        two[0],
        weights=one[1],
        scale=metric.scale,
        changed=sum(int(np.sum(changed_docs(metric, *pair))) for pair in shared),
        higher_is_better=metric.higher_is_better,
    )
    return _value(metric, *one), _value(metric, *two), difference


def _value(metric: Metric, scores: Sequence[Array], weights: Sequence[float]) -> float:
    return metric.scale * statistics.weighted_sum([statistics.mean(one) for one in scores], weights).value


def compare_rows(first: Run, second: Run, tolerance: Tolerance = USUAL) -> list[Pair]:
    """Every row that either run has, in A's order, verdicts corrected for their number."""
    rows = {row.label: row for run in (second, first) for row in run.rows}
    order = dict.fromkeys([row.label for run in (first, second) for row in run.rows])
    return _corrected(
        [_pair(first, second, label, rows[label], rows[label].tasks) for label in order], tolerance
    )


def compare_tasks(first: Run, second: Run, tolerance: Tolerance = USUAL) -> list[Pair]:
    """Every task of the rows that average several, verdicts corrected for their number."""
    pairs = []
    for row in first.rows:
        if len(row.tasks) > 1:
            pairs += [_pair(first, second, task, row, (task,)) for task in row.tasks]
    return _corrected(pairs, tolerance)


def _pair(first: Run, second: Run, label: str, row: RowResult, tasks: Sequence[str]) -> Pair:
    measured = on_shared_docs(first, second, row, tasks)
    if measured is None:
        return Pair(label, row.metric, None, None, None, None, _why_not(first, second, tasks))
    return Pair(label, row.metric, *measured, None, "")


def _why_not(first: Run, second: Run, tasks: Sequence[str]) -> str:
    for name, run in (("A", first), ("B", second)):
        missing = [task for task in tasks if task not in run.tasks]
        if missing:
            return f"{name} has no {missing[0]}"
    return "no doc with the same prompt and a score in both"


def _corrected(pairs: list[Pair], tolerance: Tolerance) -> list[Pair]:
    tested = [k for k, one in enumerate(pairs) if one.difference is not None]
    adjusted = significance.holm([one.difference.p for one in pairs if one.difference is not None])
    for k, p in zip(tested, adjusted, strict=True):
        one = pairs[k]
        assert one.difference is not None
        # Holm's first step, one of two sides: what a single row's difference has to pass
        level = tolerance.alpha / 2 / len(tested)
        one = replace(one, p=p, mde=significance.detectable(one.difference, one.metric.reach, level))
        pairs[k] = replace(one, verdict=_verdict(one, tolerance))
    return pairs


def _verdict(one: Pair, tolerance: Tolerance) -> str:
    difference = one.difference
    assert difference is not None and one.first is not None and one.p is not None and one.mde is not None
    margin = tolerance.margin(one.metric, one.first)
    if difference.changed == 0:
        return "same on every doc"
    near = significance.equivalence(difference.value, difference.stderr, margin) < tolerance.alpha
    if one.p < tolerance.alpha:
        side = "worse" if one.metric.loss(0, difference.value) > 0 else "better"
        return f"B is {side}" + (f" (within ±{margin:.2g})" if near else "")
    if near:
        return f"equivalent (within ±{margin:.2g})"
    return f"cannot tell (a difference of {one.mde:.{one.metric.digits}f} would show)"


# --- output ---


def as_markdown(first: Run, second: Run, flips: int = 0, tolerance: Tolerance = USUAL) -> str:
    """The comparison as markdown: what differs, rows, tasks, and the docs that changed."""
    check_suites(first, second)
    found = mismatches(first, second)
    blocks = [
        f"# {first.suite}: A = {_named(first)}, B = {_named(second)}",
        *[f"- {_warning(one)}{markdown_text(one.text)}" for one in found],
        "",
        markdown(_table("Rows", "Row", compare_rows(first, second, tolerance), tolerance)),
    ]
    tasks = compare_tasks(first, second, tolerance)
    if tasks:
        blocks.append(markdown(_table("Tasks of the rows that average several", "Task", tasks, tolerance)))
    if flips:
        blocks.append(flips_markdown(first, second, flips))
    return "\n".join(blocks)


def _warning(one: Mismatch) -> str:
    return "" if one.code in CIRCUMSTANCES else "not the same measurement: "


def _named(run: Run) -> str:
    words = [run.name, run.model.quantization, run.model.dtype, f"({run.folder.name})"]
    return markdown_text(one_line(" ".join(word for word in words if word)))


def _table(title: str, first_column: str, pairs: list[Pair], tolerance: Tolerance) -> Table:
    notes = Footnotes()
    header = (first_column, "A", "B", "B − A", "95 % interval", "docs changed", "p (Holm)", "MDE", "Verdict")
    rows = []
    for one in pairs:
        d, digits = one.difference, one.metric.digits
        if d is None or one.first is None or one.second is None or one.p is None or one.mde is None:
            rows.append((Cell(one.label), *(Cell(DASH) for _ in header[2:]), Cell(one.verdict)))
            continue
        rows.append(
            (
                Cell(one.label),
                Cell(f"{one.first:.{digits}f}"),
                Cell(f"{one.second:.{digits}f}"),
                Cell(signed(d.value, digits + 1)),
                Cell(f"{signed(d.low, digits + 1)} to {signed(d.high, digits + 1)}"),
                Cell(f"{d.changed} of {d.n}"),
                Cell("< 0.001" if one.p < 0.001 else f"{one.p:.3f}", marks=(notes.mark(_test_note(d)),)),
                Cell(f"{one.mde:.{digits + 1}f}"),
                Cell(one.verdict),
            )
        )
    notes.mark(
        "MDE: the smallest true difference that is found here in four of five cases (80 % power), Holm counted"
    )
    notes.mark(f"Verdict: {tolerance.words}")
    return Table(title, tuple(Cell(text) for text in header), tuple(rows), tuple(notes.texts))


def _test_note(difference: Difference) -> str:
    return {
        "exact McNemar": "exact McNemar test on the docs whose score changed",
        "paired bootstrap": "paired bootstrap over docs within each task",
    }.get(difference.test, difference.test)


def as_json(first: Run, second: Run, flips: int = 0, tolerance: Tolerance = USUAL) -> str:
    """The comparison as JSON, numbers unrounded."""
    check_suites(first, second)
    data: dict[str, Any] = {
        "suite": first.suite,
        "first": _side(first),
        "second": _side(second),
        "mismatches": [asdict(one) for one in mismatches(first, second)],
        "rows": [_plain(one) for one in compare_rows(first, second, tolerance)],
        "tasks": [_plain(one) for one in compare_tasks(first, second, tolerance)],
    }
    if flips:
        data["flips"] = [asdict(flip) for flip in find_flips(first, second, flips)]
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _side(run: Run) -> dict[str, Any]:
    return {"model": run.model.model_dump(), "folder": run.folder.name, "limit": run.log.limit}


def _plain(one: Pair) -> dict[str, Any]:
    entry: dict[str, Any] = {"label": one.label, "metric": one.metric.name}
    entry |= {
        "first": one.first,
        "second": one.second,
        "difference": None,
        "p": one.p,
        "verdict": one.verdict,
    }
    if one.difference is not None:
        numbers = {**asdict(one.difference), "mde": one.mde}
        del numbers["spread"], numbers["share"]
        if one.difference.stderr == float("inf"):
            numbers.update(stderr=None, low=None, high=None, mde=None)
        entry["difference"] = numbers
    return entry
