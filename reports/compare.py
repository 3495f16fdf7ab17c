"""Is B better than A? Row by row and task by task, on the docs that both runs answered."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evals.core import statistics
from evals.core.errors import EXIT_OK, UserError
from reports import published, significance
from reports.card import DASH, signed
from reports.comparability import CIRCUMSTANCES, Mismatch, mismatches
from reports.render.tables import Cell, Footnotes, Table, markdown, markdown_text, one_line
from reports.runs import RowResult, Run, load_run, paired_scores
from reports.significance import Difference

ALPHA = 0.05
MARGIN = {"percent": 1.0, "score": 0.1}
"""Differences within this (in the row's unit) count as equivalent."""


@dataclass(frozen=True)
class Pair:
    """A row or task in both runs, on their shared docs. Values in the row's unit; `p` is Holm's, over its table."""

    label: str
    first: float | None
    second: float | None
    difference: Difference | None
    p: float | None
    verdict: str
    digits: int = 1


@dataclass(frozen=True)
class Options:
    """What `compare` was asked for."""

    first: Path
    second: Path
    show_flips: int
    format: str
    output: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument("first", type=Path, metavar="A", help="run folder or blessed baseline")
    parser.add_argument("second", type=Path, metavar="B", help="run folder of the same suite")
    parser.add_argument(
        "--show-flips", type=int, default=0, metavar="N", help="show up to N docs a task whose score changed"
    )
    parser.add_argument("--format", choices=("md", "json"), default="md", help="default: md")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(args.first, args.second, args.show_flips, args.format, args.output)
    if options.show_flips < 0:
        raise UserError("--show-flips needs a number of docs, zero or more")
    return options


def main(args: argparse.Namespace) -> int:
    """Prints the comparison of two runs."""
    from reports.card import write

    options = options_from(args)
    first, second = load_run(options.first), load_run(options.second)
    render = as_json if options.format == "json" else as_markdown
    text = render(first, second, options.show_flips)
    if options.output:
        write(options.output, text)
    else:
        print(text, end="")
    return EXIT_OK


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
    scores = [paired_scores(first, second, row.metric, task, any_prompt) for task in tasks]
    known = [one for one in scores if one is not None]
    if not known or len(known) < len(scores):
        return None
    scale = statistics.row_scale(row.metric)
    one, two = [pair[0] for pair in known], [pair[1] for pair in known]
    means = [
        scale * statistics.average([statistics.mean(part) for part in side]).value for side in (one, two)
    ]
    return means[0], means[1], significance.paired_difference(one, two, scale=scale)


def compare_rows(first: Run, second: Run) -> list[Pair]:
    """Every row that either run has, in A's order, verdicts corrected for their number."""
    rows = {row.label: row for run in (second, first) for row in run.rows}
    order = dict.fromkeys([row.label for run in (first, second) for row in run.rows])
    return _corrected([_pair(first, second, label, rows[label], rows[label].tasks) for label in order], first)


def compare_tasks(first: Run, second: Run) -> list[Pair]:
    """Every task of the rows that average several, verdicts corrected for their number."""
    pairs = []
    for row in first.rows:
        if len(row.tasks) > 1:
            pairs += [_pair(first, second, task, row, (task,)) for task in row.tasks]
    return _corrected(pairs, first)


def _pair(first: Run, second: Run, label: str, row: RowResult, tasks: Sequence[str]) -> Pair:
    measured = on_shared_docs(first, second, row, tasks)
    if measured is None:
        return Pair(label, None, None, None, None, _why_not(first, second, tasks))
    digits = 2 if row.metric == "judge_score" else 1
    return Pair(label, *measured, None, "", digits)


def _why_not(first: Run, second: Run, tasks: Sequence[str]) -> str:
    for name, run in (("A", first), ("B", second)):
        missing = [task for task in tasks if task not in run.tasks]
        if missing:
            return f"{name} has no {missing[0]}"
    return "no doc with the same prompt and a score in both"


def _corrected(pairs: list[Pair], run: Run) -> list[Pair]:
    tested = [k for k, one in enumerate(pairs) if one.difference is not None]
    adjusted = significance.holm([one.difference.p for one in pairs if one.difference is not None])
    unit = published.load(run.suite).unit
    for k, p in zip(tested, adjusted, strict=True):
        pairs[k] = replace(pairs[k], p=p, verdict=_verdict(pairs[k], p, MARGIN[unit(pairs[k].label)]))
    return pairs


def _verdict(one: Pair, p: float, margin: float) -> str:
    difference = one.difference
    assert difference is not None
    if difference.changed == 0:
        return "same on every doc"
    near = significance.equivalence(difference.value, difference.stderr, margin) < ALPHA
    if p < ALPHA:
        return f"B is {'better' if difference.value > 0 else 'worse'}" + (
            f" (within ±{margin:g})" if near else ""
        )
    if near:
        return f"equivalent (within ±{margin:g})"
    return f"cannot tell (a difference of {difference.mde:.{one.digits}f} would show)"


# --- output ---


def as_markdown(first: Run, second: Run, flips: int = 0) -> str:
    """The comparison as markdown: what differs, rows, tasks, and the docs that changed."""
    check_suites(first, second)
    found = mismatches(first, second)
    blocks = [
        f"# {first.suite}: A = {_named(first)}, B = {_named(second)}",
        *[f"- {_warning(one)}{markdown_text(one.text)}" for one in found],
        "",
        markdown(_table("Rows", "Row", compare_rows(first, second))),
    ]
    tasks = compare_tasks(first, second)
    if tasks:
        blocks.append(markdown(_table("Tasks of the rows that average several", "Task", tasks)))
    if flips:
        from reports.flips import flips_markdown

        blocks.append(flips_markdown(first, second, flips))
    return "\n".join(blocks)


def _warning(one: Mismatch) -> str:
    return "" if one.code in CIRCUMSTANCES else "not the same measurement: "


def _named(run: Run) -> str:
    words = [run.name, run.model["quantization"], run.model["dtype"], f"({run.folder.name})"]
    return markdown_text(one_line(" ".join(word for word in words if word)))


def _table(title: str, first_column: str, pairs: list[Pair]) -> Table:
    notes = Footnotes()
    header = (first_column, "A", "B", "B − A", "95 % interval", "docs changed", "p (Holm)", "MDE", "Verdict")
    rows = []
    for one in pairs:
        d, digits = one.difference, one.digits
        if d is None or one.first is None or one.second is None or one.p is None:
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
                Cell(f"{d.mde:.{digits + 1}f}"),
                Cell(one.verdict),
            )
        )
    notes.mark(
        "MDE: the smallest true difference that this many docs show in four of five cases (80 % power)"
    )
    return Table(title, tuple(Cell(text) for text in header), tuple(rows), tuple(notes.texts))


def _test_note(difference: Difference) -> str:
    return {
        "exact McNemar": "exact McNemar test on the docs whose score changed",
        "paired bootstrap": "paired bootstrap over docs within each task",
    }.get(difference.test, difference.test)


def as_json(first: Run, second: Run, flips: int = 0) -> str:
    """The comparison as JSON, numbers unrounded."""
    check_suites(first, second)
    data: dict[str, Any] = {
        "suite": first.suite,
        "first": _side(first),
        "second": _side(second),
        "mismatches": [asdict(one) for one in mismatches(first, second)],
        "rows": [_plain(one) for one in compare_rows(first, second)],
        "tasks": [_plain(one) for one in compare_tasks(first, second)],
    }
    if flips:
        from reports.flips import find_flips

        data["flips"] = [asdict(flip) for flip in find_flips(first, second, flips)]
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _side(run: Run) -> dict[str, Any]:
    return {"model": dict(run.model), "folder": run.folder.name, "limit": run.record["limit"]}


def _plain(one: Pair) -> dict[str, Any]:
    entry = asdict(one)
    if one.difference is not None and one.difference.stderr == float("inf"):
        entry["difference"].update(stderr=None, low=None, high=None, mde=None)
    return entry
