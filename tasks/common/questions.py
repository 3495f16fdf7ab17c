"""A question with choices, as a benchmark reads its row; and its two OLMES formulations (arXiv 2406.08446)."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import CardTask, FixedShots, likelihood_task
from tasks.common.rows import field, short, text, texts

SHOTS = 5
INSTRUCTION = "The following are multiple choice questions (with answers) about {}.\n\n"
WITHOUT = "Answer:"  # what choices are scored after when the question is left out


@dataclass(frozen=True)
class Question:
    """What a row asks. `group`: its subject, which has shots and a heading line of its own in OLMES.

    The rest is OLMES's. `label` stands before the text. `query` is completed by the choices (None: the labelled text
    and `Answer:`). `scored`: the completions, where they are others than each choice after a space. `openings`: what
    of each belongs to the context and is not scored.
    """

    text: str
    choices: Sequence[str]
    gold: int
    group: str | None = None
    label: str = "Question: "
    query: str | None = None
    scored: Sequence[str] = ()
    openings: Sequence[str] = ()

    @property
    def heading(self) -> str:
        """What stands over lettered choices."""
        return self.label + self.text

    def doc(self, task_name: str, query: str, scored: Sequence[str] = (), **more: Any) -> Doc:
        """The doc of a query after which `scored` are scored: the choices' texts unless told, which are not shown."""
        choices = list(scored) or [f" {choice}" for choice in self.choices]
        return Doc(task_name=task_name, query=query, choices=choices, gold_index=self.gold, **more)


Read = Callable[[Mapping[str, Any]], Question]


def lettered(row: Mapping[str, Any], column: str) -> Question:
    """The text in `column`, the row's ``choices`` {text, label}, and as gold the one of the label ``answerKey``."""
    choices = field(row, "choices")
    if not isinstance(choices, Mapping):
        raise ValueError(f"'choices' is not a pair of lists (text, label): {short(choices)}")
    options, labels = texts(choices, "text", at_least=2), texts(choices, "label", at_least=2)
    if len(options) != len(labels):
        raise ValueError(f"'choices' has {len(options)} texts for {len(labels)} labels")
    if len(set(labels)) != len(labels):
        raise ValueError(f"'choices.label' repeats itself: {short(labels)}")
    answer = text(row, "answerKey")
    if answer not in labels:
        raise ValueError(f"'answerKey' is {short(answer)}, out of range: {short(labels)}")
    return Question(text(row, column), options, labels.index(answer))


def completion(question: Question, task_name: str) -> Doc:
    """The choices' texts are scored and never shown."""
    query = f"{question.heading}\nAnswer:" if question.query is None else question.query
    openings = {"openings": list(question.openings)} if question.openings else {}
    return question.doc(task_name, query, question.scored, **_about(question, openings))


def letters(question: Question, task_name: str) -> Doc:
    """The choices are shown with letters, which are scored."""
    names = string.ascii_uppercase[: len(question.choices)]
    lines = [f" {name}. {choice}\n" for name, choice in zip(names, question.choices, strict=True)]
    query = f"{question.heading}\n{''.join(lines)}Answer:"
    return question.doc(task_name, query, [f" {name}" for name in names], **_about(question, {}))


def _about(question: Question, specific: dict[str, Any]) -> dict[str, Any]:
    """A doc's `specific`, and the heading line of its group."""
    if question.group is None:
        return {"specific": specific or None}
    heading = INSTRUCTION.format(question.group.replace("_", " "))
    return {"specific": specific | {"group": question.group}, "instruction": heading}


def sign(question: Question) -> str:
    """The name of a fixed shot: a digest of what is asked, the choices and the answer."""
    content = json.dumps([question.heading, question.choices, question.gold], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def formulations(name: str, read: Read, *, metric: str, shots: str = "", **facts: Any) -> list[CardTask]:
    """`olmes_NAME` and `olmes_NAME_mc`: completions with `metric` as the row's, and letters; five fixed shots each.

    `shots`: their names, by space; without any, the first rows of each group of the few-shot split.
    `facts`: as CardTask's.
    """

    def complete(row: dict[str, Any], task_name: str) -> Doc:
        return completion(read(row), task_name)

    def letter(row: dict[str, Any], task_name: str) -> Doc:
        return letters(read(row), task_name)

    def row_sign(row: Mapping[str, Any]) -> str:
        question = read(row)
        return sign(question) if shots else str(question.group)

    fixed = FixedShots(row_sign, tuple(shots.split()))
    usual: dict[str, Any] = {"home": name, "shots": SHOTS, "shot_split": "train", "fixed_shots": fixed}
    facts = usual | facts
    plain = tuple(one for one in ("acc", "acc_per_token", "acc_per_char") if one != metric)
    bare = WITHOUT if metric == "acc_pmi" else None
    return [
        likelihood_task(
            name=f"olmes_{name}", prompt=complete, metrics=(*plain, metric), unconditioned=bare, **facts
        ),
        likelihood_task(name=f"olmes_{name}_mc", prompt=letter, lettered=True, metrics=("acc",), **facts),
    ]
