"""A run folder from another harness's log.

What keeps its numbers from being taken for this project's: the harness stands in the model's name, every row has the
note "foreign", and the rows are of a card of their own, which prints no published number. Scores are believed: nothing
here can compute them again.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics as means
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from evals.core import statistics
from evals.core.card import Card, Row
from evals.core.errors import UserError, first_of
from evals.core.files import publish_folder, write_atomic
from evals.core.runlog import DataLog, ModelLog, Provenance, RowLog, RunLog, TaskDataLog, read_log
from evals.run import samples
from evals.run.log import joint_hash, row_log, task_log, utc, versions
from evals.run.samples import Columns

RIGHT, SCORE = "foreign_right", "foreign_score"  # metrics: right or wrong; anything from 0 to 1


@dataclass(frozen=True)
class ForeignDoc:
    """One doc as the other harness scored it. `asked`: all that went into the model; docs are paired by it."""

    number: int
    asked: Any
    prompt: str
    gold: str
    output: str
    score: float


@dataclass(frozen=True)
class ForeignTask:
    """One task's main figure: the mean of `docs`' scores. `size`: how many docs the task has in all.

    `others`: further figures of the same docs, {name: value}. They are told in a note: as rows beside the main figure
    they would enter the mean of the rows, whose error takes rows for independent.
    """

    name: str
    metric: str
    size: int
    docs: Sequence[ForeignDoc]
    shots: int | None = None
    repo: str | None = None
    subset: str | None = None
    split: str | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The mean score, 0 to 1."""
        return means.fmean(doc.score for doc in self.docs)


def with_others(figures: Sequence[ForeignTask]) -> ForeignTask:
    """The first of several figures of the same docs, which keeps the values of the others."""
    return replace(figures[0], others={one.metric: one.value for one in figures[1:]})


@dataclass(frozen=True)
class ForeignLog:
    """What another harness says of one model. `limit`: docs a task at most, as it was told.

    `left_out`: its figures that could not be taken, each with the reason.
    """

    harness: str
    version: str
    model: str
    tasks: Sequence[ForeignTask]
    chat: bool = False
    limit: int | None = None
    revision: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    parameters: int | None = None
    engine: str | None = None
    date: str = ""
    left_out: Sequence[str] = ()


def refuse(path: Path, what: str) -> NoReturn:
    """The one line for a log that cannot be taken."""
    raise UserError(f"'{path}' cannot be imported: {what}")


def publish(log: ForeignLog, results: Path) -> Path:
    """Writes the run folder below `results`, whole or not at all; where it lies. Raises UserError."""
    columns = dict(zip(_slugs(log.tasks), map(_columns, log.tasks), strict=True))
    try:
        run = _run_log(log, columns)
    except ValidationError as error:
        raise UserError(
            f"the {log.harness} log of '{_shown(log.model)}' cannot be imported: {first_of(error)}"
        ) from error
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    final = results / _slug(run.model.name) / f"{stamp}-{run.suite}"
    partial = samples.write(final, columns)
    write_atomic(partial / "run.json", run.dump())
    return read_log(publish_folder(partial, final)).folder


def _run_log(log: ForeignLog, columns: dict[str, Columns]) -> RunLog:
    card = _card(log, columns)
    by_slug = dict(zip(columns, log.tasks, strict=True))
    return RunLog(
        model=ModelLog(
            name=f"{_shown(log.model)} ({log.harness})", source=f"{log.harness}:{_shown(log.model)}",
            revision=log.revision, fingerprint=log.fingerprint, dtype=log.dtype, quantization=None,
            parameters=log.parameters, chat=log.chat, card_column=None,
        ),
        suite=card.name,
        card=card,
        limit=log.limit,
        data=DataLog(source="foreign", tasks={slug: _data(task) for slug, task in by_slug.items()}),
        tasks={slug: task_log(columns[slug], {"shots": task.shots}) for slug, task in by_slug.items()},
        rows=[_row(log, row, by_slug[row.tasks[0]], columns) for row in card.rows],
        provenance=Provenance(
            versions=versions() | {log.harness: log.version},
            prompt_hashes={name: joint_hash(values["prompt_hash"]) for name, values in columns.items()},
            engine=log.engine, variant=[], started=log.date, finished=log.date or utc(time.time()),
        ),
        timing={},
    )  # fmt: skip


def _card(log: ForeignLog, columns: dict[str, Columns]) -> Card:
    """A card of the log's own figures; logs of the same figures have the same one, and can be compared."""
    rows = tuple(
        Row(label=_label(task), tasks=(slug,), metric=RIGHT if RIGHT in values else SCORE, docs=task.size)
        for (slug, values), task in zip(columns.items(), log.tasks, strict=True)
    )
    digest = hashlib.sha256(json.dumps([row.model_dump(mode="json") for row in rows]).encode()).hexdigest()
    return Card(
        name=f"{log.harness}-{digest[:6]}",
        title=f"Imported from {log.harness}: comparable with no card",
        header="Task",
        prompts="chat" if log.chat else "plain",
        rows=rows,
    )


def _data(task: ForeignTask) -> TaskDataLog:
    whole = len(task.docs) == task.size
    note = None if whole else f"{len(task.docs)} of {task.size} docs"
    return TaskDataLog(
        repo=task.repo, subset=task.subset, split=task.split, rows=len(task.docs), official_rows=task.size,
        complete=whole, note=note,
    )  # fmt: skip


def _row(log: ForeignLog, row: Row, task: ForeignTask, columns: dict[str, Columns]) -> RowLog:
    notes = [("foreign", f"measured by {log.harness} {_shown(log.version)}, not by this project")]
    if len(task.docs) < task.size:
        notes.append(("limit", f"only {len(task.docs)} of {task.size} docs"))
    if task.others:
        figures = (f"{_shown(name)}: {100 * value:.1f}" for name, value in task.others.items())
        notes.append(("secondary", ", ".join(figures)))
    value = statistics.summarize_row(row.of, {name: columns[name] for name in row.tasks})
    return row_log(row, value, notes)


def _columns(task: ForeignTask) -> Columns:
    docs = sorted(task.docs, key=lambda doc: doc.number)
    scores = [doc.score for doc in docs]
    binary = {0, 1}.issuperset(scores)
    return {
        "doc_id": [doc.number for doc in docs],
        "prompt_hash": [_digest(doc.asked) for doc in docs],
        "prompt": [doc.prompt for doc in docs],
        "group": [None for _ in docs],
        "gold": [[doc.gold] for doc in docs],
        "output": [doc.output for doc in docs],
        **({RIGHT: list(map(int, scores))} if binary else {SCORE: list(map(float, scores))}),
    }


def _digest(asked: Any) -> str:
    text = json.dumps(asked, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _label(task: ForeignTask) -> str:
    shots = "" if task.shots is None else f" ({task.shots}-shot)"
    return _shown(f"{task.name}{shots}, {task.metric}")


def _slugs(tasks: Sequence[ForeignTask]) -> Iterator[str]:
    """A file name for each task, each another."""
    seen: set[str] = set()
    for task in tasks:
        name = re.sub(r"[-.]", "_", _slug(f"{task.name}_{task.metric}").lower())
        if name in seen:
            name = f"{name[:80]}_{_digest([task.name, task.metric])}"
        seen.add(name)
        yield name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:80] or "model"


def _shown(text: str) -> str:
    """Text from outside on one line of at most 80 characters; of a path, its last part."""
    last = text.rstrip("/").rsplit("/", 1)[-1] if text.startswith(("/", "~", ".")) else text
    return " ".join("".join(c if c.isprintable() else " " for c in last).split())[:80] or "unnamed"
