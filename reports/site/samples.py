"""Samples for the sample browser: what was asked once, what each run answered beside it, in small script files.

A *set* is the docs of one task that some runs share (same prompts in the same order; a limited run is a prefix of a
whole one). It becomes ``data/<set>/docs-K.js``, ``data/<set>/run-R-K.js`` and ``data/<set>/scores-R.js``: the
browser filters by the scores alone, and loads chunk K only when a doc of it is shown or searched.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from evals.core.metric import Metric
from evals.core.runlog import inside, refuse
from reports.questions import question_start
from reports.runs import Run
from reports.site.naming import Shown, number
from reports.site.scripts import slug, write_script
from reports.site.task_pages import metrics_of, row_label

CHUNK_CHARS = 250_000  # a script of this size is parsed within one frame
CHUNK_DOCS = 2_000
JUDGMENTS = "judgments.parquet"
JUDGED = ("question_id", "turn", "judge", "prompt_set", "score", "judgment")
NO_RATING = -1.0
# What a run was asked; all other columns are what it answered.
ASKED = ("doc_id", "question_id", "group", "prompt", "turns", "choices", "gold", "reference", "item_names")


@dataclass(frozen=True)
class Answers:
    """One run's samples of one task: ``run`` numbers the run in the site, ``scores`` are the docs' own, one a doc.

    ``judged``: what judges wrote, one list a doc; empty where none did.
    """

    run: int
    table: pa.Table
    scores: Sequence[float | None]
    judged: Sequence[list[Any]] = ()

    def hashes(self) -> list[str]:
        """The prompts' hashes in evaluation order: what makes two runs' docs the same docs."""
        return [str(one) for one in self.table.column("prompt_hash").to_pylist()]

    def answered(self) -> dict[str, list[Any]]:
        """The columns that hold answers."""
        names = [name for name in self.table.column_names if name not in ASKED and name != "prompt_hash"]
        columns: dict[str, list[Any]] = self.table.select(names).to_pydict()
        if self.judged:
            columns["judgments"] = list(self.judged)
        if "logprobs" in columns:  # a tenth of a millinat is finer than any page shows
            columns["logprobs"] = [[round(value, 4) for value in values] for values in columns["logprobs"]]
        return columns


def write_samples(folder: Path, shown: Sequence[Shown], most: int | None) -> None:
    """All runs' samples, `most` a task (None: all), and the browser's index of them.

    One task at a time, so that memory holds the samples of one task alone.
    """
    sets = []
    tasks = {(item.run.suite, task): row_label(item.run, task) for item in shown for task in item.run.tasks}
    for (suite, task), row in tasks.items():
        having = [(k, item.run) for k, item in enumerate(shown) if item.run.suite == suite]
        answers = [_answers(k, run, task, most) for k, run in having if task in run.tasks]
        for group in group_sets(answers):
            run = shown[group[0].run].run
            shots = int(number(run.log.tasks[task].settings.get("shots")) or 0)
            entry = write_set(folder, task, group, shots) | _grades(_main_metric(run, task))
            sets.append(entry | {"suite": suite, "row": row})
    runs = [
        {"key": item.key, "name": item.name, "title": item.title, "suite": item.run.suite, "page": item.page}
        for item in shown
    ]
    titles = {item.run.suite: item.run.card.heading for item in shown}
    write_script(folder, "index", {"suites": list(titles.items()), "runs": runs, "sets": sets})


def _answers(number: int, run: Run, task: str, most: int | None) -> Answers:
    table = run.table(task).slice(0, most)
    judged: list[list[Any]] = []
    if "question_id" in table.column_names and (run.folder / JUDGMENTS).is_file():
        judged = judgments(run.folder, table.column("question_id").to_pylist())
    return Answers(number, table, doc_scores(run.columns(task), _main_metric(run, task))[:most], judged)


def _main_metric(run: Run, task: str) -> Metric | None:
    return next(iter(metrics_of(run, task)), None)


def doc_scores(columns: Mapping[str, Any], metric: Metric | None) -> list[float | None]:
    """A doc's own score by its task's metric, for filters; None where it has none."""
    n = len(columns["doc_id"])
    if metric is None or not all(name in columns for name in metric.columns):
        return [None] * n
    return [metric.doc_value({name: columns[name][k] for name in metric.columns}) for k in range(n)]


def _grades(metric: Metric | None) -> dict[str, Any]:
    """What the browser needs to judge a score: which one is right, which is wrong, and whether less is better."""
    lower = metric is not None and not metric.higher_is_better
    if metric is None or metric.judged or not math.isfinite(metric.reach):
        return {"right": None, "wrong": None, "lower": lower}
    wrong, right = (metric.high, metric.low) if lower else (metric.low, metric.high)
    return {"right": right, "wrong": wrong, "lower": lower}


def group_sets(answers: Sequence[Answers]) -> list[list[Answers]]:
    """Puts runs of one task together whose docs are the same, or a beginning of the first one's."""
    groups: list[tuple[list[str], list[Answers]]] = []
    for answer in sorted(answers, key=lambda answer: -answer.table.num_rows):
        hashes = answer.hashes()
        for longest, members in groups:
            if longest[: len(hashes)] == hashes:
                members.append(answer)
                break
        else:
            groups.append((hashes, [answer]))
    return [members for _, members in groups]


def write_set(folder: Path, task: str, members: Sequence[Answers], shots: int) -> dict[str, Any]:
    """Writes a set's script files; returns its entry for the index of the browser.

    The first member has all docs. ``groups.js`` numbers the docs' groups, where there are several, so that the browser
    can filter by them.
    """
    first = members[0].table
    name = slug(task, *members[0].hashes())
    columns = first.select([column for column in ASKED if column in first.column_names]).to_pydict()
    answered = {member.run: member.answered() for member in members}
    starts = list(_chunk_starts([columns, *answered.values()], first.num_rows))
    for k, (start, end) in enumerate(zip(starts, [*starts[1:], first.num_rows], strict=True)):
        write_script(folder, f"{name}/docs-{k}", _front_coded(columns, start, end, shots))
        for member in members:
            if start < member.table.num_rows:
                chunk = [[column, values[start:end]] for column, values in answered[member.run].items()]
                write_script(folder, f"{name}/run-{member.run}-{k}", chunk)
    for member in members:
        write_script(folder, f"{name}/scores-{member.run}", _packed(member.scores))
    groups = sorted({group for group in columns.get("group", ()) if group is not None})
    if len(groups) > 1:
        numbers = {group: k for k, group in enumerate(groups)}
        write_script(folder, f"{name}/groups", [numbers.get(one, -1) for one in columns["group"]])
    return {
        "groups": groups if len(groups) > 1 else [],
        "name": name,
        "task": task,
        "n": first.num_rows,
        "starts": starts,
        "shots": shots,
        "runs": [[member.run, member.table.num_rows] for member in members],
    }


def judgments(folder: Path, questions: Sequence[int]) -> list[list[Any]]:
    """What judges wrote about each question's answers: [turn, judge, prompts, rating, text] of each, by turn."""
    try:
        table = parquet.read_table(inside(folder, JUDGMENTS), columns=list(JUDGED))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        refuse(folder, f"{JUDGMENTS} cannot be read ({' '.join(str(error).split())[:120]})")
    found: dict[int, list[list[Any]]] = {question: [] for question in questions}
    for line in table.to_pylist():
        rating = line["score"] if line["score"] != NO_RATING else None
        words = [line["turn"], line["judge"], line["prompt_set"], rating, line["judgment"]]
        found.setdefault(line["question_id"], []).append(words)
    return [sorted(found[question], key=lambda words: words[0]) for question in questions]


def _chunk_starts(tables: Sequence[dict[str, list[Any]]], n: int) -> Iterator[int]:
    """Positions where a new chunk begins, so that no chunk's scripts grow past a frame's worth of parsing."""
    size, start = 0, 0
    for position in range(n):
        doc = max(
            sum(_length(values[position]) for values in table.values() if position < len(values))
            for table in tables
        )
        if position == 0 or size + doc > CHUNK_CHARS or position - start >= CHUNK_DOCS:
            yield position
            size, start = 0, position
        size += doc


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_length, value)) if isinstance(value, list) else 6


def _front_coded(columns: dict[str, list[Any]], start: int, end: int, shots: int = 0) -> dict[str, Any]:
    """A chunk of docs whose prompts leave out what they share with the one before: few-shot prompts shrink tenfold.

    ``shared`` counts UTF-16 units, as the browser does; ``begin`` says where each prompt's own question begins.
    """
    shared, rest, before, begin = [], [], "", []
    for prompt in columns["prompt"][start:end]:
        length = _common(before, prompt)
        shared.append(_units(prompt[:length]))
        begin.append(_units(prompt[: question_start(prompt, shots)]))
        rest.append(prompt[length:])
        before = prompt
    others = [[name, values[start:end]] for name, values in columns.items() if name != "prompt"]
    return {"shared": shared, "rest": rest, "begin": begin, "columns": others}


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _common(one: str, other: str) -> int:
    """The length of the longest common beginning: by bisection, as slices compare far faster than characters."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect.bisect(lengths, False, key=lambda length: one[:length] != other[:length])


def _packed(scores: Sequence[float | None]) -> str | list[float | None]:
    """Right or wrong as one digit a doc; other scores as a list; null where a doc has none."""
    if all(score in (0, 1) for score in scores):
        return "".join("1" if score else "0" for score in scores)
    return list(scores)
