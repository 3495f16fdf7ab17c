"""OLMES's formulations of benchmarks whose own files have the SmolLM2 card's (Gu et al. 2024, arXiv 2406.08446)

Rows are those of arc.py, commonsense_qa.py, hellaswag.py, mmlu.py, openbook_qa.py, piqa.py and winogrande.py; what is
asked about them: tasks/README.md, "OLMES". BoolQ and Social IQa have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks import arc, commonsense_qa, hellaswag, mmlu, openbook_qa, piqa, winogrande
from tasks.common.builders import CardTask
from tasks.common.questions import Question, Read, formulations
from tasks.common.rows import label, text, texts

# the five shots of each benchmark, by the digests that questions.py gives rows; MMLU has its subjects' first rows
SHOTS = {
    "arc_easy": "036d8dc91c9a896a f81b0969f3bf2f2a 910820c5bee798d3 af92f7b8adf48c36 abbdb80b70cd1afc",
    "arc_challenge": "3fe4a8575fe7f237 da7731a2e7cb99c9 aa60c064e107f148 8ca0b5cff2649a4e 137d1d13a1b497a6",
    "commonsense_qa": "ce2697e0e7a01fa4 b2c31fb0d220638f 1ba1ff2d25591978 5d7057fab66e44ff a59894f936a12822",
    "hellaswag": "22b0ac0dea0ee295 bf2b9d2a2e01db67 a04a0852a9d015e1 e9bd8d42dedd40c3 bcf67471b38a009d",
    "openbook_qa": "8b792a869175416b 73ea9699de41d6ac 3e9a5acb161d2c31 c929e91ce7db7cae 55390af8f390be83",
    "piqa": "5d881a865e08c221 82569f61917d35ff c4092c7a8d641781 1cbc84e9f1633aeb d6fc88622b9a2cdd",
    "winogrande": "d3c78fba2e3adbcd 7a31c3be3d787f77 785962c6bb60ae07 e1a4a73c97abc26a b131bb11afd29c41",
}


def scene(row: Mapping[str, Any]) -> Question:
    """HellaSwag: the endings complete the scene itself."""
    told = hellaswag.clean(hellaswag.scene(row))
    endings = [hellaswag.clean(ending.strip()) for ending in texts(row, "endings", at_least=2)]
    return Question(
        f"{told}\nChoose the best continuation:",
        [ending.lstrip() for ending in endings],
        label(row, "label", len(endings)),
        label="",
        query=told.strip(),
        scored=[f" {ending}" for ending in endings],  # a mark that is cleaned away leaves a space behind
    )


def gap(row: Mapping[str, Any]) -> Question:
    """Winogrande: what follows the gap is scored after each of the two names."""
    before, found, after = text(row, "sentence").partition("_")
    if not found:
        raise ValueError("'sentence' has no gap ('_')")
    names = [text(row, "option1"), text(row, "option2")]
    gold = label(row, "answer", 2, first=1)
    filled, rest = f"Fill in the blank: {before}___{after}", [f" {after.strip()}"] * 2
    return Question(filled, names, gold, label="", query=before, scored=rest, openings=names)


def _of(task: CardTask, read: Read, metric: str, shot_docs: int, **facts: Any) -> list[CardTask]:
    """Both formulations on the data of a task that is here already."""
    same = ("repo", "subset", "revision", "split", "docs", "columns")
    facts = {name: getattr(task, name) for name in same} | facts
    shots = SHOTS.get(task.name, "")
    return formulations(task.name, read, metric=metric, shots=shots, shot_docs=shot_docs, **facts)


TASKS = [
    *_of(arc.TASKS[0], arc.read, "acc_per_char", 2251),
    *_of(arc.TASKS[1], arc.read, "acc_pmi", 1119),
    *_of(commonsense_qa.TASK, commonsense_qa.read, "acc_pmi", 9741),
    *_of(hellaswag.TASK, scene, "acc_per_char", 39905),
    *_of(openbook_qa.TASK, openbook_qa.read, "acc_pmi", 4957, split="test"),
    *_of(piqa.TASK, piqa.read, "acc_per_char", 16113),
    *_of(winogrande.TASK, gap, "acc", 40398),
    *_of(mmlu.TASK, mmlu.read, "acc_per_char", 285, shot_split="dev"),
]
