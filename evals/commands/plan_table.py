"""The plan of a run (evals/run/plan.py) as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from evals.run.plan import Rates, RowPlan
from evals.run.progress import span
from evals.run.shares import EXPECTED_OUTPUT
from reports.render.tables import Cell, Table, cells


def table(rows: Sequence[RowPlan], rates: Rates | None) -> Table:
    """The plan for people; the time it will take where rates are known."""
    header = cells("Row", "Docs", "Requests", "Stored", "Distinct tokens", "Output tokens")
    lines = [_line(f"{row.suite}: {row.label}", row, rates) for row in rows]
    total = [
        sum(getattr(row, name) for row in rows) for name in ("docs", "requests", "stored", "tokens", "output")
    ]
    lines += [_line("all", RowPlan("", "", *total), rates), *_division(rows, rates)]
    counted = (
        f"an answer is counted with its budget, at most {EXPECTED_OUTPUT} tokens: many end earlier, few go on"
    )
    if rates is None:
        return Table("Plan", header, tuple(lines), remarks=(f"{counted}; --plan adds the time it will take",))
    speed = f"by {rates.read:,.0f} tokens read and {rates.generated:,.0f} generated a second here"
    todo = any(row.stored < row.requests for row in rows)
    return Table("Plan", (*header, Cell("Time", marks=(1,))), tuple(lines), (f"{speed}; {counted}",) * todo)


def _division(rows: Sequence[RowPlan], rates: Rates | None) -> list[tuple[Cell, ...]]:
    """A line for each of several workers; `rates` are those of all together."""
    lines = []
    for k, parts in enumerate(zip(*(row.workers for row in rows), strict=True), 1):
        requests, tokens, output = (sum(numbers) for numbers in zip(*parts, strict=True))
        count = len(rows[0].workers)
        line = cells(f"worker {k} of {count}", "", f"{requests:,}", "", f"{tokens:,}", f"{output:,}")
        seconds = count * rates.seconds(RowPlan("", "", 0, requests, 0, tokens, output)) if rates else None
        lines.append(line + _time(seconds))
    return lines


def _line(label: str, row: RowPlan, rates: Rates | None) -> tuple[Cell, ...]:
    numbers = (row.docs, row.requests, row.stored, row.tokens, row.output)
    return cells(label, *(f"{number:,}" for number in numbers)) + _time(rates.seconds(row) if rates else None)


def _time(seconds: float | None) -> tuple[Cell, ...]:
    """The last column's cell; none where no time is known."""
    return () if seconds is None else cells(span(seconds))
