"""MT-Bench: 80 open questions of two turns, judged (Zheng et al. 2023, arXiv 2306.05685; tasks/README.md)

A row: {"question_id": 1, "category": "math", "turns": ["What is 2 + 2?", "And twice that?"],
"reference": ["4", "8"]}
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import generative_task
from tasks.common.rows import field, integer, text, texts

TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
TEMPERATURES |= dict.fromkeys(("math", "reasoning", "coding", "extraction"), 0.0)


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The first turn; ``specific`` carries the rest of the row and how to sample."""
    category = text(row, "category")
    if category not in TEMPERATURES:
        raise ValueError(f"'category' is '{category}', not one of: {', '.join(sorted(TEMPERATURES))}")
    turns = texts(row, "turns", at_least=2)
    if len(turns) != 2:
        raise ValueError(f"'turns' holds {len(turns)} of 2 turns")
    question = integer(row, "question_id")
    if not 0 <= question < 2**31:
        raise ValueError(f"'question_id' is out of range: 0 to {2**31 - 1}")
    return Doc(
        task_name=task_name,
        query=turns[0],
        choices=[],
        gold_index=[],
        specific={
            "group": category,
            "question_id": question,
            "turn": 1,
            "turns": turns,
            "reference": _references(row),
            "temperature": TEMPERATURES[category],
            "seed": _seed(question, 1),
        },
    )


def follow_up(doc: Doc, answer: str) -> Doc:
    """The second turn of a first-turn doc: the first and the model's own answer stand before it as a shot."""
    assert doc.specific is not None
    first = Doc(task_name=doc.task_name, query=doc.query, choices=[answer], gold_index=0)
    specific = {
        **doc.specific,
        "conversation": True,  # what stands before is no example that may be dropped for room
        "turn": 2,
        "seed": _seed(doc.specific["question_id"], 2),
    }
    return replace(doc, query=doc.specific["turns"][1], fewshot_samples=[first], specific=specific)


def _references(row: dict[str, Any]) -> list[str]:
    """Both turns' reference answers, "" for a turn that has none; nothing where neither turn has one."""
    given = [] if field(row, "reference") is None else texts(row, "reference", at_least=0, blank=True)
    if len(given) > 2:
        raise ValueError(f"'reference' holds {len(given)} answers for 2 turns")
    return [*given, "", ""][:2] if any(answer.strip() for answer in given) else []


def _seed(question: int, turn: int) -> int:
    """A seed of its own for each question and turn, whatever else is generated beside it."""
    return 2 * question + turn


TASK = generative_task(
    name="mt_bench",
    prompt=prompt,
    repo="lighteval/mt-bench",
    subset="default",
    revision=None,
    split="train",
    docs=80,
    columns=("question_id", "category", "turns", "reference"),
    metrics=(),  # a judge's, after the run
    budget=1024,
    follow_up=follow_up,
    keep=("question_id", "turns", "reference"),
)
