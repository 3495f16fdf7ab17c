"""What a gate tells people: its plan beforehand, its verdicts on one screen, a markdown summary, JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from reports.card import DASH, signed
from reports.flips import flips_markdown
from reports.gate.evidence import Evidence
from reports.gate.planning import Planned, shown_digits
from reports.gate.policy import Policy
from reports.gate.verdict import INCONCLUSIVE, MISSING, PASS, REGRESSION, GateResult, RowGate
from reports.render.tables import Table, cells, markdown, markdown_text, one_line
from reports.runs import Run
from reports.significance import MEAN

EXPLAINED = {
    PASS: "no row dropped by more than allowed",
    REGRESSION: "at least one row dropped by more than allowed, and the drop is statistically real",
    INCONCLUSIVE: "no regression found, but the docs are too few to rule it out",
    MISSING: "a row that must be there is missing",
}
NEAR_TIES = 0.8  # of the docs that flipped: then noise is all that there is to see


def plan_text(plan: Mapping[str, Planned], policy: Policy) -> str:
    """What the gate promises, before it starts: its error rates, and the drop that each row can and cannot show."""
    power = f"{100 * (1 - policy.beta):g} %"
    lines = [
        f"gate: an unchanged candidate fails in at most {100 * policy.alpha:g} % of cases (all rows together); "
        f"a row finds the drop stated here with {power} power"
    ]
    width = max(map(len, plan))
    for label, one in plan.items():
        finds = f"finds {one.shown(one.sees)}" if one.own else "by log-probabilities alone"
        text = f"allowed {one.shown(one.allowed)}, {finds}, {one.docs:,} docs, {one.tier}"
        lines.append(f"  {one_line(label):<{width}}  {text}")
    without = [one_line(label) for label, one in plan.items() if label != MEAN and not one.finer]
    if without and any(one.rule.evidence != "accuracy" for one in plan.values()):
        lines.append(
            f"accuracy alone: {', '.join(without)} (no log-probabilities of gold answers in the run; those of "
            "generated rows that have any are stored by 'run --references')"
        )
    return "\n".join(lines)


def plain(result: GateResult, code: int) -> str:
    """One line a row, what a regression is made of, then the verdict."""
    labels = [one_line(row.label)[:60] for row in result.rows]
    width = max(map(len, labels))
    lines = [
        f"{row.verdict:<12} {label:<{width}}  {change(row):<24} {_gold(row):<22} {row.tier}: {one_line(row.reason)}"
        for row, label in zip(result.rows, labels, strict=True)
    ]
    lines += [f"note: {one_line(one.text)}" for one in result.mismatches]
    lines += explanation(result)
    return "\n".join([*lines, f"gate: {result.verdict} ({EXPLAINED[result.verdict]}), exit code {code}"])


def change(row: RowGate) -> str:
    """Both values and their difference; "so far" where docs were left out."""
    one = row.evidence
    if one is None:
        return DASH
    digits = shown_digits(one.metric)
    text = f"{one.before:.{digits}f} → {one.after:.{digits}f} ({signed(one.after - one.before, digits)})"
    return text if one.whole else f"{text} so far"


def _gold(row: RowGate) -> str:
    """The gold answers' change, as a column."""
    gold = row.evidence.gold if row.evidence else None
    if gold is None:
        return DASH
    half = (gold.high - gold.low) / 2
    return f"gold {signed(-gold.less_likely, 1)} ± {half:.1f} %"


def docs(row: RowGate) -> str:
    """How many docs a row's verdict rests on."""
    one = row.evidence
    if one is None:
        return "0" if row.planned is None else f"0 of {row.planned.docs}"
    return str(one.difference.n) if one.drawn is None else f"{one.difference.n} of {one.drawn.total}"


def explanation(result: GateResult) -> list[str]:
    """Of each regression: what kind it is, since when it is sure, and which docs lost most; and where to see more."""
    lines = []
    for row in result.rows:
        one = row.evidence
        if row.verdict != REGRESSION or one is None:
            continue
        since = "" if one.whole else f"; sure after {docs(row)} docs"
        lines.append(f"{one_line(row.label)}: {kind(one, result)}{since}")
        moved = ", ".join(f"{doc.task} {doc.doc_id} (−{doc.loss:.2g})" for doc in one.moved)
        if moved:
            unit = "margin lost, nats" if one.gold else "score lost"
            lines.append(f"  moved most ({unit}): {moved}")
    if lines or result.verdict == INCONCLUSIVE:
        lines.append(f"see more: {command(result)}")
    return lines


def kind(one: Evidence, result: GateResult) -> str:
    """What kind of change it is, as far as the docs tell."""
    if any(each.code == "prompts" for each in result.mismatches):
        return "the prompts differ: another template or tokenizer, not only other weights"
    gold = one.gold
    if gold is None:
        return f"{one.difference.changed} of {one.difference.n} docs changed"
    if gold.low > 0:
        return f"{gold.words} ({gold.low:.1f} to {gold.high:.1f})"
    if gold.flipped and gold.near >= NEAR_TIES * gold.flipped:
        return f"near ties flip ({gold.near} of {gold.flipped} changed docs), {gold.words}"
    return gold.words


def command(result: GateResult) -> str:
    """The command that shows the docs."""
    places = [shlex.quote(one_line(str(run.folder))) for run in (result.baseline, result.candidate)]
    return f"run_evals.py compare {' '.join(places)} --show-flips 10"


# --- markdown -------------------------------------------------------------------------------------


def summary_markdown(result: GateResult, code: int, flips: int = 0) -> str:
    """Verdict first, then the rows that need attention, then everything, folded."""
    marks = {PASS: "✅", REGRESSION: "❌", INCONCLUSIVE: "❔", MISSING: "❌"}
    title = f"# {marks[result.verdict]} Evaluation gate: {result.verdict}"
    head = f"{title}\n\n{EXPLAINED[result.verdict]} (exit code {code})."
    lines = [
        f"- **{row.verdict}** {markdown_text(row.label)} ({row.tier}): {markdown_text(row.reason)}"
        for row in result.rows
        if row.verdict != PASS
    ]
    lines += [f"- {markdown_text(text)}" for text in explanation(result)]
    facts = [f"- {side}: {_described(getattr(result, side))}" for side in ("baseline", "candidate")]
    facts.append(f"- policy: {markdown_text(result.policy.source)}")
    facts += [f"- accepted or noted: {markdown_text(one.text)}" for one in result.mismatches]
    blocks = [
        head,
        "\n".join(lines),
        "\n".join(facts),
        f"<details><summary>All {len(result.rows)} rows</summary>",
        markdown(_table(result)).rstrip(),
        "</details>",
        flips_markdown(result.baseline, result.candidate, flips) if flips else "",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _described(run: Run) -> str:
    fingerprint = str(run.model.fingerprint or "no fingerprint")[:19]
    words = [run.name, run.model.quantization, run.model.dtype, run.folder.name, fingerprint]
    return markdown_text(", ".join(str(word) for word in words if word))


HEADER = (
    "Row", "Verdict", "Tier", "Baseline", "Candidate", "Change", "Gold answers", "Allowed", "p", "Finds", "Docs",
)  # fmt: skip


def _table(result: GateResult) -> Table:
    rows = [cells(row.label, row.verdict, row.tier, *_numbers(row), docs(row)) for row in result.rows]
    power, alpha = 100 * (1 - result.policy.beta), 100 * result.policy.alpha
    notes = (
        f"p: one-sided, against no drop, corrected for all rows and tests (at most {alpha:g} % false regressions)",
        f"Finds: the true drop that this row shows in {power:g} % of cases, as noisy as its docs are",
        "Gold answers: how much likelier a token of them became, 95 % interval",
    )
    return Table(f"Suite {result.baseline.suite}", cells(*HEADER), tuple(rows), notes)


def _numbers(row: RowGate) -> list[str]:
    one, planned = row.evidence, row.planned
    if one is None or planned is None:
        return [DASH] * 7
    moved = signed(one.after - one.before, shown_digits(one.metric))
    finds = planned.shown(planned.detectable(one.difference)) if planned.own else DASH
    first = planned.shown(one.before), planned.shown(one.after), moved, _gold(row).removeprefix("gold ")
    return [*first, planned.shown(planned.allowed), f"{row.p:.4f}", finds]


# --- JSON -----------------------------------------------------------------------------------------


def as_json(result: GateResult, code: int) -> str:
    """The verdicts as JSON, numbers unrounded; null for infinity, which JSON does not have."""
    policy = result.policy
    data = {
        "verdict": result.verdict, "exit_code": code, "early": result.early, "alpha": policy.alpha, "beta": policy.beta,
        "policy": policy.source, "baseline": str(result.baseline.folder), "candidate": str(result.candidate.folder),
        "mismatches": result.mismatches, "rows": [_row(row) for row in result.rows], "see_more": command(result),
    }  # fmt: skip
    return TypeAdapter(Any).dump_json(data, indent=1).decode()


def _row(row: RowGate) -> dict[str, Any]:
    one, planned = row.evidence, row.planned
    entry: dict[str, Any] = {name: getattr(row, name) for name in ("label", "verdict", "tier", "reason")}
    if planned is not None:
        entry |= {"allowed": planned.allowed, "expected_to_find": planned.sees, "docs": planned.docs}
    if one is not None and planned is not None:
        difference = one.difference
        entry |= {
            "before": one.before, "after": one.after, "stderr": difference.stderr, "p": row.p,
            "finds": planned.detectable(difference), "docs_measured": difference.n, "docs_changed": difference.changed,
            "evidence": planned.evidence, "gold": one.gold, "soft": one.soft.value if one.soft else None,
            "moved_most": one.moved,
        }  # fmt: skip
    return entry
