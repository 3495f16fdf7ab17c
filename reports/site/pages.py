"""What the pages show but those of tasks: the boards, a run, pairs of runs, and curves over a training's checkpoints.

Templates take the numbers from boards, runs and comparisons themselves; here stands what these do not say.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from evals.core.errors import UserError
from evals.core.runlog import TaskDataLog
from evals.core.statistics import Estimate
from reports import significance
from reports.boards import ALPHA, Board, judge, labels
from reports.compare import compare_runs
from reports.curve import STEP, Curve, find_curves, labels_of
from reports.margins import USUAL
from reports.render.tables import one_line
from reports.runs import Run
from reports.site import figures
from reports.site.figures import Line, mean_figure, row_figure
from reports.site.naming import Shown, count, number, when
from reports.site.task_pages import main_figure
from reports.verdicts import row_verdicts

Context = dict[str, Any]
Pair = tuple[Shown, Shown]
MANY = 12  # tasks that are named one by one
MOST_PAIRS = 60  # of a site: each reads the scores of two whole runs


# --- boards ---


def index_page(boards: Sequence[Board], shown: Sequence[Shown], refused: Sequence[str]) -> Context:
    """The first page: a sortable table per board."""
    runs, models = count(len(shown), "run"), count(len({item.run.name for item in shown}), "model")
    suites: dict[str, list[Context]] = {}
    for board in boards:
        suites.setdefault(board.card.heading, []).append(_board(board))
    folders = f"{count(len(refused), 'folder')} ({'; '.join(refused)})"
    left_out = [f"Left out, because they cannot be used: {folders}."] if refused else []
    return {
        "summary": f"{runs} of {models}. Every value stands with its 95 % interval.",
        "suites": suites,
        "items": {item.run: item for item in shown},
        "reading": [*READING, *left_out],
    }


READING = (
    "Docs are a benchmark’s questions; n counts them. Shots are worked examples before a question (0-shot: none). The "
    "number type (dtype: float32, bfloat16) is what the model was computed in; Q4_1 and the like are weights that are "
    "stored in fewer bits. A row is a line of the model’s card, over one task or several.",
    "Lines marked “published” are the numbers on the models’ cards: printed without an error, measured by their "
    "authors, and not ranked. They stand only beside whole measurements.",
    "Runs stand in one table only if they were asked the same docs with the same prompts, with the same kind of "
    "weights and the same budgets. A label names what keeps a table from being the whole benchmark; numbers of "
    "different tables are not measured alike.",
    f"Rank: one more than the number of runs whose mean is significantly higher (paired by doc, two-sided, {ALPHA:g}, "
    "Holm’s correction over all pairs of the table). Runs that cannot be told apart may share a rank.",
    "Mean: the plain mean of the table’s rows in percent; ratings are not in it. Bold: not significantly below the "
    "best of its row, while another run is.",
    "± is half the width of the 95 % interval; two numbers are its ends, where it is not even about the value. "
    "The interval is Wilson’s for one task of right and wrong docs, else from the standard "
    "error; it covers the choice of docs, not the choice of prompts or settings.",
)


def _board(board: Board) -> Context:
    """A board's rows that have docs or a value (`kept`, by position), its axis of means and its published lines."""
    means = [figure for entry in board.entries if (figure := mean_figure(entry.mean))]
    bounds = [bound for figure in means for bound in (figure.low, figure.high) if bound is not None]
    kept = [k for k, row in enumerate(board.rows) if row.n or row.value is not None]
    return {
        "board": board,
        "title": board_title(board),
        "caption": board_caption(board),
        "axis": figures.axis(bounds) if len(means) > 1 and bounds else None,
        "kept": kept,
        "judges": {k: _judges(board, k) for k in kept},
        "published": [] if board.labels else list(_published(board, kept)),
    }


def _judges(board: Board, position: int) -> str:
    """The judge behind a row's values, in words."""
    judges = {judge(entry.run, entry.cells[position].row) for entry in board.entries} - {""}
    return "several judges" if len(judges) > 1 else "".join(judges)


def _published(board: Board, kept: Sequence[int]) -> Iterator[tuple[str, list[str], str]]:
    """(model, numbers as printed, their mean where all measured rows in percent have one) of the card's columns."""
    rows = [board.rows[k] for k in kept]
    for model in board.card.models:
        printed = [board.card.row(row.label) for row in rows]
        texts = [row.published.get(model, "") if row else "" for row in printed]
        measured = [(row.metric, text) for row, text in zip(rows, texts, strict=True)
                    if row.value is not None and row.metric.in_percent]  # fmt: skip
        mean = None
        if all(text for _, text in measured):
            parts = ((metric, Estimate(float(text), None, 0)) for metric, text in measured)
            mean = significance.mean_of_rows(parts)
        if any(texts):
            yield model, texts, f"{mean.value:.1f}" if mean else ""


def board_title(board: Board) -> str:
    """A board's heading, beside which its labels stand."""
    return "Partial measurements" if board.labels else "Whole suite"


def board_caption(board: Board) -> str:
    """What was measured, and what may be compared."""
    runs = len(board.entries)
    if runs > 1:
        text = f"{runs:,} runs, all on the same {board.docs:,} docs."
    else:
        text = f"1 run, on {board.docs:,} docs. Not ranked: no other run was measured like it."
    if board.labels:
        text += " " + ". ".join(label.title for label in board.labels) + "."
    if board.apart:
        names = ", ".join(board.apart[:MANY]) + (" and more" if len(board.apart) > MANY else "")
        text += f" Not asked the same as in the table above: {names}."
    return text


# --- a run ---


def model_page(item: Shown, everyone: Sequence[Shown], pairs: Sequence[Pair] = ()) -> Context:
    """One run: its rows as a picture and a table, and where they come from."""
    run = item.run
    verdicts = row_verdicts(run)
    timed = run.log.timing.get("rows")
    times = timed if isinstance(timed, dict) else {}
    took = {label: one.get("seconds") for label, one in times.items() if isinstance(one, dict)}
    docs = count(sum(row.n for row in run.rows), "doc")
    others = [other for other in everyone if other.run.name == run.name and other is not item]
    return {
        "item": item,
        "labels": labels(run),
        "summary": f"{docs} in {count(len(run.rows), 'row')}; measured {when(run) or 'at an unknown time'} UTC.",
        "pictures": list(_row_pictures(run, {label: one.printed for label, one in verdicts.items()})),
        "verdicts": verdicts,
        "has_published": any(verdict.printed for verdict in verdicts.values()),
        "seconds": {label: number(took.get(label)) for label in verdicts},
        "provenance": _facts(run),
        "tasks": {task: (main_figure(run, task), _data_words(run, task)) for task in run.tasks},
        "pairs": {
            address(*pair): next(one.title for one in pair if one is not item)
            for pair in pairs
            if item in pair
        },
        "others": [(other, labels(other.run)) for other in others],
        "many": MANY,
    }


def _row_pictures(run: Run, printed: Mapping[str, str | None]) -> Iterator[figures.Forest]:
    for unit in dict.fromkeys(row.metric.unit_words for row in run.rows):
        lines = [
            Line(row.label, row_figure(row), float(text) if (text := printed[row.label]) else None)
            for row in run.rows
            if row.metric.unit_words == unit
        ]
        caption = f"{unit[:1].upper()}{unit[1:]}; lines are 95 % intervals."
        if any(line.published is not None for line in lines):
            caption += " Diamonds: the number printed on the model’s card."
        if picture := figures.forest(lines, f"{run.name}: rows with 95 % intervals", caption):
            yield picture


def _data_words(run: Run, task: str) -> str:
    data = run.log.data.tasks.get(task) or TaskDataLog()
    of = f"{data.rows:,} of {data.official_rows:,} rows" if data.rows and data.official_rows else ""
    revision = f"revision {data.revision[:12]}" if data.revision else ""
    return "; ".join(filter(None, (of, revision, data.note)))


def _facts(run: Run) -> dict[str, object]:
    model, provenance = run.model, run.log.provenance
    commit, dirty = provenance.git.get("commit"), provenance.git.get("dirty")
    threads = f", {provenance.threads} threads" if provenance.threads is not None else ""
    return {
        "Weights from": model.source,
        "Revision": model.revision,
        "Fingerprint of the weights": model.fingerprint,
        "Parameters": f"{model.parameters:,}" if model.parameters is not None else None,
        "Number type": model.dtype,
        "Quantization": model.quantization,
        "Prompts": "in the model’s chat template" if model.chat else "plain text",
        "Hash of the chat template": provenance.chat_template_sha256,
        "Data from": run.log.data.source,
        "Limit": f"{run.log.limit:,} docs a task" if run.log.limit else None,
        "Variant": ", ".join(provenance.variant),
        "Engine": provenance.engine,
        "Device": f"{provenance.device or ''}{threads}",
        "Seeds": _words(provenance.seeds),
        "Versions": _words(provenance.versions),
        "Project commit": f"{commit}{' with local changes' if dirty else ''}" if commit else None,
        "Started": provenance.started,
        "Finished": provenance.finished,
        "Time taken": _time_taken(provenance.started, provenance.finished),
        "Run folder": f"{run.folder.parent.name}/{run.folder.name}",
    }


def _time_taken(started: str, finished: str) -> str:
    """From one to the other, loading and all; nothing where these are no times."""
    try:
        seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return ""
    return f"{seconds:,.0f} s" if seconds >= 0 else ""


def _words(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


# --- pairs of runs ---


def pairs_of(boards: Sequence[Board], shown: Sequence[Shown]) -> list[Pair]:
    """Pairs to compare: runs of one model and suite (plain before quantised), then each table's best and the others."""
    items = {item.run: item for item in shown}
    pairs = [
        sorted((one, other), key=lambda item: bool(item.run.model.quantization))
        for one, other in itertools.combinations(shown, 2)
        if (one.run.suite, one.run.name, one.run.smoke) == (other.run.suite, other.run.name, other.run.smoke)
    ]
    for board in boards:
        best, *others = [items[entry.run] for entry in board.entries]
        pairs += [[best, other] for other in others]
    unique = {(one.key, other.key): (one, other) for one, other in pairs}
    return list(unique.values())[:MOST_PAIRS]


def compare_page(pairs: Sequence[Pair]) -> Context:
    """The page of all pairs, each folded under the sentence that says what came out."""
    found = [(address(*pair), *pair, *compare_runs([one.run for one in pair])) for pair in pairs]
    return {"pairs": found, "verdicts": USUAL.words}


def address(one: Shown, other: Shown) -> str:
    """Where a pair stands on its page."""
    return f"{one.key}--{other.key}"


# --- curves ---


def curve_page(runs: Sequence[Run]) -> Context | None:
    """Every training among the runs with two checkpoints or more; None where there is none.

    Nobody said here that the runs are a training's, so a name must say "step", "checkpoint" or the like: a number alone
    ("model-2") is none.
    """
    try:
        curves = find_curves(run for run in runs if STEP.search(run.name))
    except UserError:
        return None
    return {"trainings": [_training(one) for one in curves if not one.is_level and len(one.points) > 1]}


def _training(curve: Curve) -> Context:
    caption = f"{count(len(curve.points), 'checkpoint')}; lines are 95 % intervals."
    if any(row.has("limit") for _, run in curve.points for row in run.rows):
        caption += " Some are partial: the first docs of each task only."
    rows = [curve.values(label) for label in labels_of([curve])]
    return {
        "title": f"{curve.points[0][1].card.heading}: {one_line(curve.name) or 'checkpoints'}",
        "smoke": curve.smoke,
        "caption": caption,
        "pictures": [_picture(values) for values in rows if len(values) > 1],
    }


def _picture(values: Sequence[tuple[int | None, Any]]) -> Context:
    """A row's points, with the axes that hold them."""
    points = [(step or 0, row_figure(row)) for step, row in values]
    bounds = [bound for _, one in points for bound in (one.value, one.low, one.high)]
    across, up = figures.axis(step for step, _ in points), figures.axis(bounds)
    return {"row": values[0][1], "points": points, "across": across, "up": up}
