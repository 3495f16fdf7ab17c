"""The plan of a run (evals/run/plan.py) as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from evals.run.plan import Rates, RowPlan
from evals.run.progress import span
from evals.run.shares import EXPECTED_OUTPUT
from reports.render.tables import Cell, Table


def table(rows: Sequence[RowPlan], rates: Rates) -> Table:
    """The plan for people."""
    header = ("Row", "Docs", "Requests", "Stored", "Distinct tokens", "Output tokens", "Time")
    lines = [_line(f"{row.suite}: {row.label}", row, rates) for row in rows]
    total = [
        sum(getattr(row, name) for row in rows) for name in ("docs", "requests", "stored", "tokens", "output")
    ]
    lines.append(_line("all", RowPlan("", "", *total), rates))
    lines += _division(rows, rates)
    note = (
        f"by {rates.read:,.0f} tokens read and {rates.generated:,.0f} generated a second here; an answer is "
        f"counted with its budget, at most {EXPECTED_OUTPUT} tokens: many end earlier, few go on"
    )
    return Table(
        "Plan",
        tuple(Cell(text, marks=(1,) if text == "Time" else ()) for text in header),
        tuple(lines),
        (note,) if any(row.stored < row.requests for row in rows) else (),
    )


def _division(rows: Sequence[RowPlan], rates: Rates) -> list[tuple[Cell, ...]]:
    """A line for each of several workers; `rates` are those of all together."""
    lines = []
    for k, parts in enumerate(zip(*(row.workers for row in rows), strict=True), 1):
        requests, tokens, output = (sum(numbers) for numbers in zip(*parts, strict=True))
        count = len(rows[0].workers)
        cells = ("", f"{requests:,}", "", f"{tokens:,}", f"{output:,}")
        seconds = count * rates.seconds(RowPlan("", "", 0, requests, 0, tokens, output))
        lines.append(tuple(map(Cell, (f"worker {k} of {count}", *cells, span(seconds)))))
    return lines


def _line(label: str, row: RowPlan, rates: Rates) -> tuple[Cell, ...]:
    numbers = (row.docs, row.requests, row.stored, row.tokens, row.output)
    return (Cell(label), *(Cell(f"{number:,}") for number in numbers), Cell(span(rates.seconds(row))))
