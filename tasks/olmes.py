"""OLMES's formulations of benchmarks whose own files have the SmolLM2 card's (Gu et al. 2024, arXiv 2406.08446)

Rows are those of arc.py, commonsense_qa.py, hellaswag.py, mmlu.py, openbook_qa.py, piqa.py and winogrande.py; what is
asked about them: tasks/README.md, "OLMES". BoolQ and Social IQa have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks import arc, commonsense_qa, hellaswag, mmlu, openbook_qa, piqa, winogrande
from tasks.common.builders import CardTask
from tasks.common.questions import Question, Read, asked, formulations
from tasks.common.rows import label, lettered_choices, text, texts


def science(row: Mapping[str, Any]) -> Question:
    """ARC and CommonsenseQA."""
    return asked(text(row, "question"), *lettered_choices(row))


def open_book(row: Mapping[str, Any]) -> Question:
    """OpenBookQA."""
    return asked(text(row, "question_stem"), *lettered_choices(row))


def goal(row: Mapping[str, Any]) -> Question:
    """PIQA."""
    return asked(text(row, "goal"), [text(row, "sol1"), text(row, "sol2")], label(row, "label", 2), "Goal")


def subject(row: Mapping[str, Any]) -> Question:
    """MMLU."""
    choices = texts(row, "choices", at_least=2)
    return asked(
        text(row, "question"), choices, label(row, "answer", len(choices)), group=text(row, "subject")
    )


def scene(row: Mapping[str, Any]) -> Question:
    """HellaSwag: the endings complete the scene itself."""
    begin = text(row, "ctx_b", blank=True).capitalize()
    told = hellaswag.clean(f"{text(row, 'activity_label')}: {text(row, 'ctx_a', blank=True)} {begin}")
    endings = tuple(hellaswag.clean(ending.strip()) for ending in texts(row, "endings", at_least=2))
    return Question(
        query=told.strip(),
        heading=f"{told}\nChoose the best continuation:",
        choices=tuple(ending.lstrip() for ending in endings),
        gold=label(row, "label", len(endings)),
        scored=tuple(f" {ending}" for ending in endings),  # a mark that is cleaned away leaves a space behind
    )


def gap(row: Mapping[str, Any]) -> Question:
    """Winogrande: what follows the gap is scored after each of the two names."""
    before, found, after = text(row, "sentence").partition("_")
    if not found:
        raise ValueError("'sentence' has no gap ('_')")
    names = (text(row, "option1"), text(row, "option2"))
    return Question(
        query=before,
        heading=f"Fill in the blank: {before}___{after}",
        choices=names,
        gold=label(row, "answer", 2, first=1),
        scored=(f" {after.strip()}",) * 2,
        openings=names,
    )


def _of(task: CardTask, read: Read, metric: str, shots: tuple[str, ...], **facts: Any) -> list[CardTask]:
    """Both formulations on the data of a task that is here already."""
    same = ("repo", "subset", "revision", "split", "docs", "columns")
    known = {name: getattr(task, name) for name in same}
    return formulations(
        task.name, read, metric=metric, shots=shots, **known | {"shot_split": "train"} | facts
    )


TASKS = [
    *_of(
        arc.TASKS[0],
        science,
        "acc_per_char",
        ("036d8dc91c9a896a", "f81b0969f3bf2f2a", "910820c5bee798d3", "af92f7b8adf48c36", "abbdb80b70cd1afc"),
        shot_docs=2251,
    ),
    *_of(
        arc.TASKS[1],
        science,
        "acc_pmi",
        ("3fe4a8575fe7f237", "da7731a2e7cb99c9", "aa60c064e107f148", "8ca0b5cff2649a4e", "137d1d13a1b497a6"),
        shot_docs=1119,
    ),
    *_of(
        commonsense_qa.TASK,
        science,
        "acc_pmi",
        ("ce2697e0e7a01fa4", "b2c31fb0d220638f", "1ba1ff2d25591978", "5d7057fab66e44ff", "a59894f936a12822"),
        shot_docs=9741,
    ),
    *_of(
        hellaswag.TASK,
        scene,
        "acc_per_char",
        ("22b0ac0dea0ee295", "bf2b9d2a2e01db67", "a04a0852a9d015e1", "e9bd8d42dedd40c3", "bcf67471b38a009d"),
        shot_docs=39905,
    ),
    *_of(
        openbook_qa.TASK,
        open_book,
        "acc_pmi",
        ("8b792a869175416b", "73ea9699de41d6ac", "3e9a5acb161d2c31", "c929e91ce7db7cae", "55390af8f390be83"),
        split="test",
        shot_docs=4957,
    ),
    *_of(
        piqa.TASK,
        goal,
        "acc_per_char",
        ("5d881a865e08c221", "82569f61917d35ff", "c4092c7a8d641781", "1cbc84e9f1633aeb", "d6fc88622b9a2cdd"),
        shot_docs=16113,
    ),
    *_of(
        winogrande.TASK,
        gap,
        "acc",
        ("d3c78fba2e3adbcd", "7a31c3be3d787f77", "785962c6bb60ae07", "e1a4a73c97abc26a", "b131bb11afd29c41"),
        shot_docs=40398,
    ),
    *_of(mmlu.TASK, subject, "acc_per_char", (), shot_split="dev", shot_docs=285),
]
