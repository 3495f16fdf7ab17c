"""What a gate leaves behind: lines for people, a markdown summary, JUnit XML and annotations for CI systems."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from evals.core.errors import UserError
from reports.card import DASH, signed
from reports.files import write
from reports.gate.verdict import INCONCLUSIVE, MISSING, PASS, REGRESSION, GateResult, RowGate, shown_digits
from reports.render.tables import Cell, Table, markdown, markdown_text, one_line
from reports.runs import Run

EXPLAINED = {
    PASS: "no row dropped by more than allowed",
    REGRESSION: "at least one row dropped by more than allowed, and the drop is statistically real",
    INCONCLUSIVE: "no regression found, but the docs are too few to rule it out",
    MISSING: "a row that must be there is missing",
}


def write_outputs(result: GateResult, code: int, junit: Path | None, summary: Path | None) -> None:
    """Prints the verdicts; writes what was asked for, and what GitHub Actions reads when it runs this."""
    print(plain(result, code))
    text = summary_markdown(result, code)
    if summary is not None:
        write(summary, text)
    if junit is not None:
        write(junit, junit_xml(result))
    _append_for_ci("GITHUB_STEP_SUMMARY", text + "\n")
    _append_for_ci("GITHUB_OUTPUT", f"verdict={result.verdict}\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(result):
            print(line)


def _append_for_ci(variable: str, text: str) -> None:
    """Appends to the file that GitHub Actions names in an environment variable, if it does."""
    name = os.environ.get(variable)
    if not name:
        return
    try:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write the file in ${variable} ('{name}'): {error.strerror}") from error


def plain(result: GateResult, code: int) -> str:
    """One line a row, then the verdict."""
    labels = [one_line(row.label)[:60] for row in result.rows]
    width = max(map(len, labels))
    lines = [
        f"{row.verdict:<12} {label:<{width}}  {_change(row):<24} {row.rule.tier}: {one_line(row.reason)}"
        for row, label in zip(result.rows, labels, strict=True)
    ]
    lines += [f"note: {one_line(one.text)}" for one in result.mismatches]
    return "\n".join([*lines, f"gate: {result.verdict} ({EXPLAINED[result.verdict]}), exit code {code}"])


def _change(row: RowGate) -> str:
    if row.metric is None or row.baseline is None or row.candidate is None:
        return DASH
    digits = shown_digits(row.metric)
    change = signed(row.candidate - row.baseline, digits)
    return f"{row.baseline:.{digits}f} → {row.candidate:.{digits}f} ({change})"


def summary_markdown(result: GateResult, code: int) -> str:
    """Verdict first, then the rows that need attention, then everything, folded."""
    marks = {PASS: "✅", REGRESSION: "❌", INCONCLUSIVE: "❔", MISSING: "❌"}
    title = f"# {marks[result.verdict]} Evaluation gate: {result.verdict}"
    head = f"{title}\n\n{EXPLAINED[result.verdict]} (exit code {code})."
    lines = [
        f"- **{row.verdict}** {markdown_text(row.label)} ({row.rule.tier}): {markdown_text(row.reason)}"
        for row in result.rows
        if row.verdict != PASS
    ]
    accepted = [f"- accepted or noted: {markdown_text(one.text)}" for one in result.mismatches]
    runs = [
        f"- {name}: {_described(run)}"
        for name, run in (("baseline", result.baseline), ("candidate", result.candidate))
    ]
    blocks = [
        head,
        "\n".join(lines),
        "\n".join([*runs, f"- policy: {markdown_text(result.policy.source)}", *accepted]),
        f"<details><summary>All {len(result.rows)} rows</summary>",
        markdown(_table(result)).rstrip(),
        "</details>",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _described(run: Run) -> str:
    fingerprint = str(run.model.fingerprint or "no fingerprint")[:19]
    words = [run.name, run.model.quantization, run.model.dtype, run.folder.name, fingerprint]
    return markdown_text(", ".join(str(word) for word in words if word))


def _table(result: GateResult) -> Table:
    header = (
        "Row",
        "Verdict",
        "Tier",
        "Baseline",
        "Candidate",
        "Change",
        "Allowed drop",
        "p (Holm)",
        "MDE",
        "n",
    )
    rows = []
    for row in result.rows:
        cells = [row.label, row.verdict, row.rule.tier, *[DASH] * 7]
        if row.metric and row.difference and row.baseline is not None and row.candidate is not None:
            digits = shown_digits(row.metric)
            cells[3:] = [
                f"{row.baseline:.{digits}f}",
                f"{row.candidate:.{digits}f}",
                signed(row.candidate - row.baseline, digits),
                f"{row.rule.allowed(row.metric, row.baseline):.{digits}f}",
                f"{row.p:.4f}",
                f"{row.mde:.{digits}f}",
                str(row.difference.n),
            ]
        rows.append(tuple(Cell(text) for text in cells))
    notes = (
        "p: one-sided, against no drop, corrected for the number of rows",
        "MDE: the true drop that this gate reports in four of five cases",
    )
    return Table(f"Suite {result.baseline.suite}", tuple(Cell(text) for text in header), tuple(rows), notes)


def junit_xml(result: GateResult) -> str:
    """A test case a row: regressions and missing rows are failures, inconclusive ones skipped, advisory ones never
    fail.
    """
    failed = [row for row in result.rows if _fails(row)]
    skipped = [row for row in result.rows if row.verdict != PASS and not _fails(row)]
    suite = ElementTree.Element(
        "testsuite",
        name=f"gate {result.baseline.suite}",
        tests=str(len(result.rows)),
        failures=str(len(failed)),
        skipped=str(len(skipped)),
        errors="0",
    )
    for row in result.rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"gate.{row.rule.tier}", name=_xml_text(row.label)
        )
        text = _xml_text(f"{row.verdict}: {row.reason}; {_change(row)}")
        if row in failed:
            ElementTree.SubElement(case, "failure", type=row.verdict, message=text).text = text
        elif row in skipped:
            ElementTree.SubElement(case, "skipped", message=text)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _fails(row: RowGate) -> bool:
    return row.verdict in (REGRESSION, MISSING) and row.rule.tier != "advisory"


def _xml_text(text: str) -> str:
    """Text without what XML 1.0 cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", one_line(text))


def workflow_commands(result: GateResult) -> list[str]:
    """GitHub's workflow commands: an error for what stops the gate, a warning for what only needs a look."""
    lines = []
    for row in result.rows:
        if row.verdict != PASS:
            inconclusive = row.verdict == INCONCLUSIVE and row.rule.tier == "critical"
            kind = "error" if _fails(row) or inconclusive else "warning"
            title = _property(one_line(f"{row.verdict}: {row.label}"))
            lines.append(f"::{kind} title={title}::{_data(one_line(f'{row.reason}; {_change(row)}'))}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
