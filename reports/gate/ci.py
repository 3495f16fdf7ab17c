"""What a gate leaves for CI systems: JUnit XML, GitHub's annotations, outputs and step summary; also of an error."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from evals.core.errors import UserError
from reports.files import write
from reports.gate.output import change, docs, explanation, summary_markdown
from reports.gate.verdict import INCONCLUSIVE, MISSING, PASS, REGRESSION, GateResult, RowGate
from reports.render.tables import markdown_text, one_line


def leave(
    result: GateResult,
    code: int,
    junit: Path | None,
    summary: Path | None,
    lenient: bool = False,
    flips: int = 0,
) -> list[str]:
    """Writes what was asked for, and what GitHub Actions reads when it runs this; its annotations, to be printed.

    `lenient`: inconclusive rows are no failures. `flips`: docs a task whose texts the summary shows.
    """
    texts = summary_markdown(result, code, flips), junit_xml(result, lenient)
    outputs = f"verdict={result.verdict}\ncandidate={one_line(str(result.candidate.folder))}\n"
    return _leave(summary, junit, *texts, outputs, workflow_commands(result, lenient))


def leave_error(error: str, junit: Path | None, summary: Path | None) -> list[str]:
    """The same for a gate that could not judge: one error case, a summary, one annotation."""
    text = f"# ❌ Evaluation gate: ERROR\n\n{markdown_text(error)}\n\nNothing was judged (exit code 2).\n"
    suite = _suite("gate", tests=1, failures=0, skipped=0, errors=1)
    case, words = ElementTree.SubElement(suite, "testcase", classname="gate", name="gate"), _xml_text(error)
    ElementTree.SubElement(case, "error", type="ERROR", message=words).text = words
    command = f"::error title=Evaluation gate::{_data(one_line(error))}"
    return _leave(summary, junit, text, _xml(suite), "verdict=ERROR\n", [command])


def _leave(
    summary: Path | None, junit: Path | None, text: str, xml: str, outputs: str, commands: list[str]
) -> list[str]:
    if summary is not None:
        write(summary, text)
    if junit is not None:
        write(junit, xml)
    _append_for_ci("GITHUB_STEP_SUMMARY", text + "\n")
    _append_for_ci("GITHUB_OUTPUT", outputs)
    return commands if os.environ.get("GITHUB_ACTIONS") == "true" else []


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


def junit_xml(result: GateResult, lenient: bool = False) -> str:
    """A test case a row: what stops the gate is a failure, what else did not pass is skipped."""
    failed = [row for row in result.rows if _fails(row, lenient)]
    skipped = [row for row in result.rows if row.verdict != PASS and row not in failed]
    counts = {"failures": len(failed), "skipped": len(skipped), "errors": 0}
    suite = _suite(f"gate {result.baseline.suite}", tests=len(result.rows), **counts)
    for row in result.rows:
        names = {"classname": f"gate.{row.tier}", "name": _xml_text(row.label)}
        case = ElementTree.SubElement(suite, "testcase", names)
        text = _xml_text(f"{row.verdict}: {row.reason}; {change(row)}; docs: {docs(row)}")
        if row in failed:
            ElementTree.SubElement(case, "failure", type=row.verdict, message=text).text = text
        elif row in skipped:
            ElementTree.SubElement(case, "skipped", message=text)
    more = explanation(result)
    if more:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(map(_xml_text, more))
    return _xml(suite)


def _suite(name: str, **counts: int) -> ElementTree.Element:
    return ElementTree.Element("testsuite", {"name": name} | {kind: str(n) for kind, n in counts.items()})


def _xml(suite: ElementTree.Element) -> str:
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _fails(row: RowGate, lenient: bool) -> bool:
    """Whether the row alone stops the gate."""
    undecided = row.verdict == INCONCLUSIVE and row.tier == "critical" and not lenient
    return row.counts and (row.verdict in (REGRESSION, MISSING) or undecided)


def _xml_text(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return re.sub("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", one_line(text))


def workflow_commands(result: GateResult, lenient: bool = False) -> list[str]:
    """GitHub's workflow commands: an error for what stops the gate, a warning for what only needs a look."""
    lines = []
    for row in result.rows:
        if row.verdict in (REGRESSION, MISSING, INCONCLUSIVE):
            kind = "error" if _fails(row, lenient) else "warning"
            title = _property(one_line(f"{row.verdict}: {row.label}"))
            lines.append(f"::{kind} title={title}::{_data(one_line(f'{row.reason}; {change(row)}'))}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
