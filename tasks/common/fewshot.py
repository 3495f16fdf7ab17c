"""Which docs are evaluated, in which order, with which shots: the protocol's random draws."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import CardTask, FixedShots

SHUFFLE_SEED = 42
FIXED_SET_SEED = 0

Row = Mapping[str, Any]


def evaluation_docs(
    task: CardTask, rows: Sequence[Row], shot_rows: Sequence[Row] = (), limit: int | None = None
) -> list[Doc]:
    """The docs of a run in the protocol's order, each with its shots, id (row number), budget and stops.

    ``rows`` is the evaluated split and ``shot_rows`` the few-shot split, both in file order; of fixed shots that have
    names, ``shot_rows`` are these alone. A limited run's docs are the first ones of a whole run. Raises ValueError for
    an empty split, a limit below 1, and a row that does not fit the task (the message names it).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"a limit of {limit} leaves no docs")
    if not rows:
        raise ValueError(f"split '{task.split}' is empty")
    docs = [build_doc(task, row, i) for i, row in enumerate(rows)]
    _check_numbers(task, docs)
    rng = random.Random(SHUFFLE_SEED)
    order = list(range(len(docs)))
    rng.shuffle(order)
    if task.fixed_shots is not None:
        shots = _given_shots(task, task.fixed_shots, rows, shot_rows)
    elif task.shot_split == task.split:
        shots = _fixed_shots(task, rows, [str(doc.get_golds()[0]) for doc in docs])
    else:
        shots = _drawn_shots(task, shot_rows, rng)
    chosen = order[:limit]
    for i in chosen:
        docs[i].fewshot_samples = shots(i)
    return [docs[i] for i in chosen]


def build_doc(task: CardTask, row: Row, number: int, split: str | None = None) -> Doc:
    """The doc of a row with what the task sets on each; ValueError naming split and row number (from 0)."""
    try:
        doc = task.prompt(dict(row), task.name)
    except ValueError as error:
        raise ValueError(f"{split or task.split} row {number}: {error}") from None
    doc.id = str(number)
    doc.generation_size = task.budget
    doc.stop_sequences = list(task.stops)
    doc.sampling_methods = [task.method]
    doc.unconditioned_query = task.unconditioned
    return doc


def _check_numbers(task: CardTask, docs: Sequence[Doc]) -> None:
    """Raises ValueError where two docs share the question's number by which ratings are told apart."""
    first: dict[int, str] = {}
    for doc in docs:
        number = (doc.specific or {}).get("question_id")
        if number is not None and first.setdefault(number, doc.id) != doc.id:
            raise ValueError(
                f"{task.split} row {doc.id}: 'question_id' {number} is that of row {first[number]} too"
            )


def fixed_set(targets: Sequence[str], size: int) -> list[int]:
    """Positions of ``size`` docs spread over the targets, the most frequent first (BBH's rule).

    Targets of equal frequency are shuffled; then they take turns, each giving a random one of its docs.
    """
    rng = random.Random(FIXED_SET_SEED)
    groups: dict[str, list[int]] = defaultdict(list)
    for position, target in enumerate(targets):
        groups[target].append(position)
    by_size: dict[int, list[str]] = defaultdict(list)
    for target in sorted(groups):
        by_size[len(groups[target])].append(target)
    ranked: list[str] = []
    for count in sorted(by_size, reverse=True):
        rng.shuffle(by_size[count])
        ranked.extend(by_size[count])
    picked: list[int] = []
    for target in cycle(ranked):
        if len(picked) == min(size, len(targets)):
            break
        group = groups[target]
        if group:
            picked.append(group.pop(rng.randrange(len(group))))
    return picked


def _fixed_shots(task: CardTask, rows: Sequence[Row], targets: Sequence[str]) -> Callable[[int], list[Doc]]:
    """The shots of a doc, by row number, from one set for all; the set has one doc more than a doc needs,
    so that each of its own members still gets its number of shots without itself.
    """
    n = task.shots
    pool = {i: build_doc(task, rows[i], i) for i in fixed_set(targets, n + 1)}
    return lambda number: [shot for i, shot in pool.items() if i != number][:n]


def _given_shots(
    task: CardTask, fixed: FixedShots, rows: Sequence[Row], shot_rows: Sequence[Row]
) -> Callable[[int], list[Doc]]:
    """The shots of a doc, by row number: the named ones, or the first of its group."""
    if fixed.names and len(shot_rows) != task.shots:
        raise ValueError(f"{len(shot_rows)} rows are given for the {task.shots} fixed shots")
    groups: dict[str, list[Doc]] = defaultdict(list)
    for i, row in enumerate(shot_rows):
        group = "" if fixed.names else fixed.sign(row)
        if len(groups[group]) < task.shots:
            groups[group].append(build_doc(task, row, i, task.shot_split))
    return lambda number: list(groups["" if fixed.names else fixed.sign(rows[number])])


def _drawn_shots(task: CardTask, rows: Sequence[Row], rng: random.Random) -> Callable[[int], list[Doc]]:
    """The shots of a doc, drawn anew for each; it must be asked doc after doc, in evaluation order."""
    n = task.shots
    if n and not rows:
        raise ValueError(f"split '{task.shot_split}' is empty: the {n} shots are drawn from it")
    built: dict[int, Doc] = {}

    def draw(number: int) -> list[Doc]:
        picks = rng.sample(range(len(rows)), min(n, len(rows)))
        for i in picks:
            if i not in built:
                built[i] = build_doc(task, rows[i], i, task.shot_split)
        return [built[i] for i in picks]

    return draw
