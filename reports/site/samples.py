"""Samples for the sample browser: what was asked once, what each run answered beside it, in small script files.

A *set* is the docs of one task that some runs share (same prompts in the same order; a limited run is a prefix of a
whole one). It becomes ``data/<set>/docs-K.js``, ``data/<set>/run-R-K.js`` and ``data/<set>/scores-R.js``: the
browser filters by the scores alone, and loads chunk K only when a doc of it is shown or searched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from evals.core.runlog import inside, refuse
from reports.questions import question_start
from reports.site.scripts import slug, write_script

CHUNK_CHARS = 250_000  # a script of this size is parsed within one frame
CHUNK_DOCS = 2_000
JUDGMENTS = "judgments.parquet"
JUDGED = ("question_id", "turn", "judge", "prompt_set", "score", "judgment")
NO_RATING = -1.0
# What a run was asked; all other columns are what it answered.
ASKED = ("doc_id", "question_id", "group", "prompt", "turns", "choices", "gold", "reference", "item_names")


@dataclass(frozen=True)
class Answers:
    """One run's samples of one task: ``run`` numbers the run in the site, ``scores`` are the docs' own, one a doc."""

    run: int
    task: str
    table: pa.Table
    scores: Sequence[float | None]

    def hashes(self) -> list[str]:
        """The prompts' hashes in evaluation order: what makes two runs' docs the same docs."""
        return [str(one) for one in self.table.column("prompt_hash").to_pylist()]


@dataclass(frozen=True)
class SampleSet:
    """Docs that ``members`` share; the first member has all of them, a limited run has the first few."""

    task: str
    members: tuple[Answers, ...]

    @property
    def name(self) -> str:
        """A folder's name: the task, and a digest of what was asked."""
        return slug(self.task, *self.members[0].hashes())


def group_sets(answers: Sequence[Answers]) -> list[SampleSet]:
    """Puts runs of one task together whose docs are the same, or a beginning of the other's."""
    groups: list[tuple[list[str], list[Answers]]] = []
    for answer in sorted(answers, key=lambda answer: -answer.table.num_rows):
        hashes = answer.hashes()
        for longest, members in groups:
            if longest[: len(hashes)] == hashes:
                members.append(answer)
                break
        else:
            groups.append((hashes, [answer]))
    return [SampleSet(members[0].task, tuple(members)) for _, members in groups if members]


def write_set(folder: Path, samples: SampleSet, shots: int) -> dict[str, Any]:
    """Writes a set's script files; returns its entry for the index of the browser.

    ``groups.js`` numbers the docs' groups, where there are several, so that the browser can filter by them.
    """
    first = samples.members[0].table
    columns = {name: first.column(name).to_pylist() for name in ASKED if name in first.column_names}
    answered = [_answered(member) for member in samples.members]
    starts = list(_chunk_starts([columns, *answered], first.num_rows))
    ends = [*starts[1:], first.num_rows]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        write_script(folder, f"{samples.name}/docs-{number}", _front_coded(columns, start, end, shots))
        for member, values in zip(samples.members, answered, strict=True):
            if start < member.table.num_rows:
                chunk = [[name, items[start:end]] for name, items in values.items()]
                write_script(folder, f"{samples.name}/run-{member.run}-{number}", chunk)
    for member in samples.members:
        write_script(folder, f"{samples.name}/scores-{member.run}", _packed(member.scores))
    groups = list(dict.fromkeys(group for group in columns.get("group", ()) if group is not None))
    if len(groups) > 1:
        numbers = {group: k for k, group in enumerate(sorted(groups))}
        write_script(folder, f"{samples.name}/groups", [numbers.get(one, -1) for one in columns["group"]])
    return {
        "groups": sorted(groups) if len(groups) > 1 else [],
        "name": samples.name,
        "task": samples.task,
        "n": first.num_rows,
        "starts": starts,
        "shots": shots,
        "runs": [[member.run, member.table.num_rows] for member in samples.members],
    }


def judgments(folder: Path, questions: Sequence[int]) -> list[str]:
    """What judges wrote about each question's answers: a JSON list of [turn, judge, prompts, rating, text]."""
    try:
        table = parquet.read_table(inside(folder, JUDGMENTS), columns=list(JUDGED))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        refuse(folder, f"{JUDGMENTS} cannot be read ({' '.join(str(error).split())[:120]})")
    found: dict[int, list[list[Any]]] = {}
    for line in table.to_pylist():
        rating = line["score"] if line["score"] != NO_RATING else None
        texts = [line[name] for name in ("judge", "prompt_set", "judgment")]
        found.setdefault(line["question_id"], []).append([line["turn"], *texts[:2], rating, texts[2]])
    return [json.dumps(sorted(found.get(question, []), key=lambda one: one[0])) for question in questions]


def _answered(answers: Answers) -> dict[str, list[Any]]:
    table = answers.table
    names = [name for name in table.column_names if name not in ASKED and name != "prompt_hash"]
    columns = {name: table.column(name).to_pylist() for name in names}
    if "judgments" in columns:
        columns["judgments"] = [json.loads(text) for text in columns["judgments"]]
    if "logprobs" in columns:  # a tenth of a millinat is finer than any page shows
        columns["logprobs"] = [[round(value, 4) for value in values] for values in columns["logprobs"]]
    return columns


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
    low, high = 0, min(len(one), len(other))
    while low < high:  # bisection: slices compare far faster than a loop over characters
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _packed(scores: Sequence[float | None]) -> str | list[float | None]:
    """Right or wrong as one digit a doc; other scores as a list; null where a doc has none."""
    if all(score in (0, 1) for score in scores):
        return "".join("1" if score else "0" for score in scores)
    return list(scores)
