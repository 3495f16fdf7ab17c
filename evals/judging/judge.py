"""Judging: a run's two-turn answers and a judge in, judgments and the value of the run's judged row out.

What a judge is asked is a request like any other: its result is stored as it comes under the judge's identity and the
exact prompt. A stopped judging goes on where it was, changed answers are judged anew, nothing is asked twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from evals.core import statistics
from evals.core.errors import UserError
from evals.core.files import parquet_bytes, run_lock, write_atomic
from evals.core.requests import GenerateRequest, Generation, RequestRefused, TextRequest
from evals.core.runlog import FILE as LOG_FILE
from evals.core.runlog import JudgeLog, MetricLog, Note, RowLog, RunLog, inside, read_log
from evals.judging.prompts import NO_RATING, Ask, Item, PromptSet, ask, rating_of
from evals.run.progress import Progress
from evals.run.store import Store, request_key

FILE = "judgments.parquet"
SERIES = ("judge", "prompt_set", "prompt_set_sha256")  # what tells one judge's lines from another's

Line = dict[str, Any]


class Judge(Protocol):
    """What judging needs of a judge. `name` stands in results; `identity` is what its judgments depend on."""

    name: str
    identity: str

    def fits(self, system: str, user: str) -> bool:
        """Whether the prompt leaves room for a judgment."""

    def request(self, system: str, user: str) -> TextRequest | GenerateRequest:
        """The prompt as a request: temperature 0."""

    def run(self, requests: Sequence[Any]) -> Iterator[tuple[int, Generation | RequestRefused]]:
        """(index, judgment or refusal) of each request as they come, in any order."""


@dataclass(frozen=True)
class Outcome:
    """What a judging did: all `lines` of the run's judgments, how many were `asked` now, which were `refused`."""

    lines: list[Line]
    asked: int
    stored: int
    refused: dict[tuple[int, int], str]


def judged_row(log: RunLog) -> RowLog:
    """The row of a run that waits for a judge or has one. Raises UserError when it has none with answers."""
    for row in log.rows:
        if row.of.judged and set(row.tasks) <= set(log.tasks):
            return row
    wanted = [row.label for row in log.measured_card.rows if row.of.judged]
    hint = f"measure the row '{wanted[0]}' first" if wanted else f"the card '{log.suite}' has no judged row"
    raise UserError(f"the run '{log.folder}' has no answers to judge: {hint}")


def read_items(folder: Path) -> list[Item]:
    """The questions and answers of a run, in its order. Raises UserError if it has none."""
    from pyarrow import ArrowException, parquet

    (task,) = judged_row(read_log(folder)).tasks
    path = inside(folder, f"samples/{task}.parquet")
    wanted = ["question_id", "group", "turns", "output", "output_turn_2", "reference"]
    try:
        lines = parquet.read_table(path, columns=wanted).to_pylist()
        return [
            Item(
                int(line["question_id"]),
                str(line["group"]),
                (line["turns"][0], line["turns"][1]),
                (line["output"], line["output_turn_2"]),
                tuple(line["reference"] or ()),
            )
            for line in lines
        ]
    except (ArrowException, OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as answers to judge: {str(error)[:200]}") from error


def judge_run(
    folder: Path,
    judge: Judge,
    prompts: PromptSet,
    store: Store,
    progress: Progress,
    *,
    published: bool = False,
) -> Outcome:
    """Judges every answer of a run that this judge has not judged yet, then publishes into the run's folder.

    `published`: the user states that the judge is the one of the published number. Raises UserError; what was judged
    until then is stored.
    """
    asks: list[Ask] = []
    refused: dict[tuple[int, int], str] = {}
    for item, turn in product(read_items(folder), (1, 2)):
        try:
            asks.append(ask(prompts, item, turn, judge.fits))
        except ValueError as error:
            refused[item.question_id, turn] = str(error)
    results, asked, stored = _judgments(asks, judge, store, progress)
    lines = []
    for one, result in zip(asks, results, strict=True):
        if isinstance(result, RequestRefused):
            refused[one.question_id, one.turn] = str(result)
        else:
            lines.append(_line(judge, prompts, one, result))
    if not lines:
        reason = next(iter(refused.values()), "the run has no answers")
        raise UserError(f"the judge {judge.name} gave no judgment at all: {reason}")
    lock = store.path.with_name("judging.lock")
    with run_lock(lock, f"the judgments of '{folder.name}'", progress.note):
        everything = publish(folder, lines, len(refused), published)
    return Outcome(everything, asked, stored, refused)


def _judgments(
    asks: Sequence[Ask], judge: Judge, store: Store, progress: Progress
) -> tuple[list[Generation | RequestRefused], int, int]:
    """What the judge says to each; how many of the judgments were asked for now, and how many were stored before."""
    requests = [judge.request(one.system, one.user) for one in asks]
    keys = [request_key(judge.identity, request) for request in requests]
    known: dict[bytes, Any] = store.get(keys)
    stored = len(known)
    unique = dict(zip(keys, requests, strict=True))
    todo = [key for key in unique if key not in known]
    with progress.counting(f"judge {judge.name}", len(unique), stored) as counter:
        for i, result in judge.run([unique[key] for key in todo]):
            known[todo[i]] = result
            if isinstance(result, Generation):
                store.put([(todo[i], result)])
                store.flush()  # a judgment takes seconds, and may cost money: not one is lost
            counter.advance()
    return [known[key] for key in keys], len(todo), stored


def _line(judge: Judge, prompts: PromptSet, one: Ask, judgment: Generation) -> Line:
    score, outcome = rating_of(judgment.text)
    exact = f"{one.system}\0{one.user}".encode("utf-8", "surrogatepass")
    return {
        "question_id": one.question_id,
        "category": one.category,
        "turn": one.turn,
        "judge": judge.name,
        "prompt_set": prompts.name,
        "prompt_set_sha256": prompts.sha256,
        "prompt": one.prompt,
        "prompt_sha256": hashlib.sha256(exact).hexdigest(),
        "score": score,
        "outcome": outcome,
        "judgment": judgment.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        "finish": judgment.finish,
        "cut_characters": one.cut,
    }


def publish(folder: Path, lines: list[Line], refused: int, published: bool) -> list[Line]:
    """Puts a judge's lines beside those of others and makes them the run's row; each file whole or not at all.

    Judgments, then samples, then run.json: what is stopped in between is mended by the same command.
    """
    from pyarrow import Table

    mine = _series(lines[0])
    everything = [line for line in read_judgments(folder) if _series(line) != mine] + lines
    write_atomic(folder / FILE, parquet_bytes(Table.from_pylist(everything)))
    log = read_log(folder)
    columns = _add_ratings(folder, judged_row(log), lines)
    _update(log, lines, columns, refused, published)
    write_atomic(folder / LOG_FILE, log.dump())
    return everything


def read_judgments(folder: Path) -> list[Line]:
    """All judgments of a run, of every judge; none if it was not judged. Raises UserError for a broken file."""
    from pyarrow import ArrowException, parquet

    path = folder / FILE
    if not path.is_file():
        return []
    try:
        lines: list[Line] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"'{path}' is damaged: remove it and judge again (what is stored is not asked again)"
        ) from error
    if lines and not {*SERIES, "question_id", "turn", "score", "category"} <= set(lines[0]):
        raise UserError(f"'{path}' is no file of judgments: remove it and judge again")
    return lines


def _series(line: Line) -> tuple[Any, ...]:
    return tuple(line[name] for name in SERIES)


def _add_ratings(folder: Path, row: RowLog, lines: Sequence[Line]) -> dict[str, list[list[float]]]:
    """Writes the ratings of both turns (valid ones) as the metric's column of the samples; {column: ratings}."""
    import pyarrow
    from pyarrow import parquet

    path, name = folder / "samples" / f"{row.tasks[0]}.parquet", str(row.of.column)
    table = parquet.read_table(path)
    by_question: dict[int, list[float]] = {}
    for line in sorted(lines, key=lambda line: line["turn"]):
        if line["score"] != NO_RATING:
            by_question.setdefault(line["question_id"], []).append(line["score"])
    ratings = [by_question.get(question, []) for question in table.column("question_id").to_pylist()]
    if name in table.column_names:
        table = table.drop_columns([name])
    table = table.append_column(name, pyarrow.array(ratings, type=pyarrow.list_(pyarrow.float64())))
    write_atomic(path, parquet_bytes(table))
    return {name: ratings}


def _update(
    log: RunLog, lines: Sequence[Line], columns: dict[str, list[list[float]]], refused: int, published: bool
) -> None:
    """The judged task and row by the judge of these lines; what others gave stays beside it."""
    row = judged_row(log)
    task = log.tasks[row.tasks[0]]
    task.metrics = {name: MetricLog(**one) for name, one in statistics.summarize_task(columns).items()}
    ratings = [line["score"] for line in lines if line["score"] != NO_RATING]
    judge = JudgeLog(
        **{name: lines[0][name] for name in SERIES},
        same_as_published=published,
        judgments=len(lines),
        unrated=len(lines) - len(ratings),
        refused=refused,
        cut=sum(line["cut_characters"] > 0 for line in lines),
        value=sum(ratings) / len(ratings) if ratings else None,
    )
    others = [one for one in task.judges if _series(one.model_dump()) != _series(lines[0])]
    task.judges = [judge, *others]
    value = statistics.summarize_row(row.of, {row.tasks[0]: columns})
    row.value, row.stderr, row.n = value["value"], value["stderr"], int(value["n"] or 0)
    kept = [n for n in row.notes if n.code not in ("not_judged", "judge", "other_judge", "secondary")]
    row.notes = [*kept, *_notes(task.judges)]
    row.note = "; ".join(note.text for note in row.notes)


def _notes(judges: Sequence[JudgeLog]) -> list[Note]:
    """The row's judge, whether it is the published one, and what the other judges gave."""
    first, *others = judges
    text = f"judge {first.judge}, prompts {first.prompt_set} ({first.prompt_set_sha256[:8]})"
    if first.unrated:
        text += f"; {first.unrated} of {first.judgments} judgments without a rating are left out"
    if first.refused:
        text += f"; {first.refused} turns could not be judged"
    if first.cut:
        text += f"; {first.cut} prompts were cut to the judge's window"
    notes = [Note(code="judge", text=text)]
    if not first.same_as_published:
        notes.append(Note(code="other_judge", text="not comparable with the published number: another judge"))
    for other in others:
        value = "no rating" if other.value is None else f"{other.value:.2f}"
        notes.append(Note(code="secondary", text=f"judge {other.judge}, prompts {other.prompt_set}: {value}"))
    return notes
