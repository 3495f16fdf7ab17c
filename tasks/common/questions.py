"""A question with choices and its two OLMES formulations: completions, and letters (arXiv 2406.08446).

A benchmark reads its row as a `Question`; `formulations` makes both tasks of it.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import CardTask, FixedShots, likelihood_task

SHOTS = 5
INSTRUCTION = "The following are multiple choice questions (with answers) about {}.\n\n"
WITHOUT = "Answer:"  # what choices are scored after when the question is left out


@dataclass(frozen=True)
class Question:
    """`query` is completed by the choices, each after a space; `heading` stands over the lettered choices.

    `scored`: the completions, where they are others than that. `openings`: what of each belongs to the context and is
    not scored. `group`: a subject, which has shots and a heading line of its own.
    """

    query: str
    heading: str
    choices: tuple[str, ...]
    gold: int
    scored: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()
    group: str | None = None


Read = Callable[[Mapping[str, Any]], Question]


def asked(
    text: str, choices: list[str], gold: int, label: str = "Question", group: str | None = None
) -> Question:
    """The usual question: its text after a label; completed after `Answer:`."""
    heading = f"{label}: {text}"
    return Question(f"{heading}\nAnswer:", heading, tuple(choices), gold, group=group)


def completion(question: Question, task_name: str) -> Doc:
    """The choices' texts are scored and never shown."""
    specific = {"openings": list(question.openings)} if question.openings else {}
    scored = question.scored or [f" {choice}" for choice in question.choices]
    return _doc(question, task_name, question.query, scored, **specific)


def letters(question: Question, task_name: str) -> Doc:
    """The choices are shown with letters, which are scored."""
    names = string.ascii_uppercase[: len(question.choices)]
    lines = [f" {name}. {choice}\n" for name, choice in zip(names, question.choices, strict=True)]
    query = f"{question.heading}\n{''.join(lines)}Answer:"
    return _doc(question, task_name, query, [f" {name}" for name in names])


def _doc(question: Question, task_name: str, query: str, choices: Sequence[str], **specific: Any) -> Doc:
    instruction = None
    if question.group is not None:
        specific["group"] = question.group
        instruction = INSTRUCTION.format(question.group.replace("_", " "))
    return Doc(
        task_name=task_name,
        query=query,
        choices=list(choices),
        gold_index=question.gold,
        instruction=instruction,
        specific=specific or None,
    )


def sign(question: Question) -> str:
    """The name of a fixed shot: a digest of what is asked, the choices and the answer."""
    content = json.dumps([question.heading, question.choices, question.gold], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def formulations(
    name: str, read: Read, *, metric: str, shots: tuple[str, ...] = (), **facts: Any
) -> list[CardTask]:
    """`olmes_NAME` and `olmes_NAME_mc`: completions with `metric` as the row's, and letters; five fixed shots each.

    `shots` are their names; without any, the first rows of each group of the few-shot split. `facts`: as CardTask's.
    """

    def complete(row: dict[str, Any], task_name: str) -> Doc:
        return completion(read(row), task_name)

    def letter(row: dict[str, Any], task_name: str) -> Doc:
        return letters(read(row), task_name)

    def row_sign(row: Mapping[str, Any]) -> str:
        question = read(row)
        return sign(question) if shots else str(question.group)

    common = {"home": name, "shots": SHOTS, "fixed_shots": FixedShots(row_sign, shots), **facts}
    plain = tuple(one for one in ("acc", "acc_per_token", "acc_per_char") if one != metric)
    return [
        likelihood_task(
            name=f"olmes_{name}",
            prompt=complete,
            metrics=(*plain, metric),
            unconditioned=WITHOUT if metric == "acc_pmi" else None,
            **common,
        ),
        likelihood_task(name=f"olmes_{name}_mc", prompt=letter, lettered=True, metrics=("acc",), **common),
    ]
