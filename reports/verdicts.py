"""Does a measured row reproduce the number that its model's card prints? The assumptions behind the answer."""

from __future__ import annotations

from dataclasses import dataclass

from reports import significance
from reports.published import PublishedTable
from reports.runs import RowResult, Run
from reports.significance import Reproduction

MARGIN = {"percent": 2.5, "score": 0.25}
"""The largest difference that still counts as reproduced, in the row's unit …"""
RELATIVE_MARGIN = 0.25
"""… and as a share of the printed number: near zero, 2.5 points would let anything pass."""
CORRELATION = {"acc_norm_nospace": 0.9}
OTHER_CORRELATION = 0.7
"""How alike two right implementations answer the same docs (correlation of the docs' scores); the printed
number's own error is unknown, and this stands in for it. Generated texts drift apart sooner than likelihoods.
Cautious on purpose: the same weights in float32 and bfloat16 gave 0.97 (PIQA, 900 docs).
"""


@dataclass(frozen=True)
class RowVerdict:
    """A row beside its model's printed number. `verdict` also covers what cannot be compared; `result` is
    None then.
    """

    printed: str | None
    difference: float | None
    result: Reproduction | None
    verdict: str


def row_verdicts(run: Run, table: PublishedTable) -> dict[str, RowVerdict]:
    """A verdict for every row of the run, corrected for their number (Holm). Smoke runs get none."""
    tested: dict[str, Reproduction] = {}
    for row in run.rows:
        if not run.smoke and row.estimate is not None and not _hindrances(row):
            result = _test(run, row, table)
            if result is not None:
                tested[row.label] = result
    corrected = dict(zip(tested, significance.with_holm(list(tested.values())), strict=True))
    return {row.label: _verdict(run, row, table, corrected.get(row.label)) for row in run.rows}


def printed_number(run: Run, label: str, table: PublishedTable) -> str | None:
    """What the model's own card prints in this row, or None; never for smoke runs."""
    row, column = table.row(label), run.model["card_column"]
    return None if run.smoke or row is None or column is None else row.cells.get(column)


def _hindrances(row: RowResult) -> list[str]:
    """Codes for which a row is another measurement than the card's; a limit alone only widens the error."""
    codes = [note.code for note in row.doubts if note.code != "limit"]
    codes += [note.code for note in row.notes if note.code == "other_judge"]
    return list(dict.fromkeys(codes))


def _test(run: Run, row: RowResult, table: PublishedTable) -> Reproduction | None:
    printed, published = printed_number(run, row.label, table), table.row(row.label)
    if printed is None or published is None or row.estimate is None:
        return None
    value = float(printed)
    return significance.reproduction(
        row.estimate,
        value,
        len(printed.partition(".")[2]),
        published.docs,
        margin=min(MARGIN[published.unit], RELATIVE_MARGIN * value),
        correlation=CORRELATION.get(row.metric, OTHER_CORRELATION),
    )


def _verdict(run: Run, row: RowResult, table: PublishedTable, result: Reproduction | None) -> RowVerdict:
    printed = printed_number(run, row.label, table)
    if row.value is None:
        code = next((note.code for note in row.notes if note.code in ("not_judged", "missing")), "missing")
        return RowVerdict(printed, None, None, code.replace("_", " "))
    if run.smoke:
        return RowVerdict(None, None, None, "smoke items: no comparison")
    if printed is None:
        return RowVerdict(None, None, None, "no published number")
    difference = row.value - float(printed)
    if result is None:
        return RowVerdict(
            printed, difference, None, f"not comparable ({', '.join(_hindrances(row)).replace('_', ' ')})"
        )
    words = result.verdict
    if words == "reproduced":
        words += f" (within ±{result.margin:.2g})"
    elif words == "cannot tell":
        words += f" at n = {row.n}"
        words += f" (n = {result.needed} could)" if result.needed else " (not even all docs could)"
    return RowVerdict(printed, difference, result, words)
