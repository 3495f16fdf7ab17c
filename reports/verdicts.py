"""Does a measured row reproduce the number that its model's card prints? The assumptions behind the answer."""

from __future__ import annotations

from dataclasses import dataclass

from evals.core.card import decimals
from reports import significance
from reports.margins import USUAL, Tolerance
from reports.runs import RowResult, Run
from reports.significance import Reproduction


@dataclass(frozen=True)
class RowVerdict:
    """A row beside its model's printed number. `verdict` also covers what cannot be compared; `result` is
    None then.
    """

    printed: str | None
    difference: float | None
    result: Reproduction | None
    verdict: str


def verdict_words(tolerance: Tolerance, tested: int) -> str:
    """What a verdict is, for a footnote: tests, margin and assumption; `tested`: how many rows Holm goes over."""
    return (
        "Verdict: 'reproduced', if two one-sided z tests put the true difference within the margin; 'differs', if a "
        f"two-sided z test finds one, with Holm's correction over the {tested} tested rows of this table; else 'cannot "
        f"tell'. Margin: {tolerance.words}. Assumption: the printed number has the spread over docs measured here, "
        "and two right implementations answer the same docs alike (correlation 0.9 for choices, 0.7 for texts)"
    )


def row_verdicts(run: Run, tolerance: Tolerance = USUAL) -> dict[str, RowVerdict]:
    """A verdict for every row of the run, corrected for their number (Holm). Smoke runs get none."""
    found = {row.label: _test(run, row, tolerance) for row in run.rows if not _hindrances(row)}
    tested = {label: result for label, result in found.items() if result is not None}
    corrected = dict(zip(tested, significance.with_holm(list(tested.values()), tolerance.alpha), strict=True))
    return {row.label: _verdict(run, row, corrected.get(row.label)) for row in run.rows}


def printed_number(run: Run, label: str) -> str | None:
    """What the model's own card prints in this row, or None; never for smoke runs."""
    row, column = run.card.row(label), run.model.card_column
    return None if run.smoke or row is None or column is None else row.published.get(column)


def _hindrances(row: RowResult) -> list[str]:
    """Codes for which a row is another measurement than the card's; a limit alone only widens the error."""
    codes = [note.code for note in row.doubts if note.code != "limit"]
    codes += [note.code for note in row.notes if note.code == "other_judge"]
    return list(dict.fromkeys(codes))


def _test(run: Run, row: RowResult, tolerance: Tolerance) -> Reproduction | None:
    printed, published = printed_number(run, row.label), run.card.row(row.label)
    if printed is None or published is None or row.estimate is None:
        return None
    value = float(printed)
    margin = tolerance.margin(row.metric, value)
    return significance.reproduction(
        row.estimate, value, decimals(printed), published.docs,
        margin=margin, correlation=row.metric.agreement, alpha=tolerance.alpha,
    )  # fmt: skip


def _verdict(run: Run, row: RowResult, result: Reproduction | None) -> RowVerdict:
    printed = printed_number(run, row.label)
    if row.value is None:
        code = next((note.code for note in row.notes if note.code in ("not_judged", "missing")), "missing")
        return RowVerdict(printed, None, None, code.replace("_", " "))
    if run.smoke:
        return RowVerdict(None, None, None, "smoke items: no comparison")
    if printed is None:
        return RowVerdict(None, None, None, "no published number")
    difference = row.value - float(printed)
    if result is None:
        why = ", ".join(_hindrances(row)).replace("_", " ")
        return RowVerdict(printed, difference, None, f"not comparable ({why})")
    words = result.verdict
    if words == "reproduced":
        words += f" (within ±{result.margin:.2g})"
    elif words == "cannot tell":
        words += f" at n = {row.n}{_more_docs(run, row, result)}"
    return RowVerdict(printed, difference, result, words)


def _more_docs(run: Run, row: RowResult, result: Reproduction) -> str:
    """How many docs would do, where the benchmark has more than were measured."""
    published = run.card.row(row.label)
    if result.needed:
        return f" (about {result.needed:,} docs would do)"
    if published is None or row.n >= published.docs:
        return ", all of the benchmark"
    return f" (all {published.docs:,} docs would not do)"
