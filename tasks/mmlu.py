"""MMLU: exam questions of 57 subjects, cloze (Hendrycks et al. 2021, arXiv 2009.03300; tasks/README.md)

A row: {"question": "How many sides has a hexagon?", "subject": "elementary_mathematics",
"choices": ["4", "5", "6", "8"], "answer": 2}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.questions import Question
from tasks.common.rows import label, text, texts


def read(row: Mapping[str, Any]) -> Question:
    """The question; its group is the subject."""
    choices = texts(row, "choices", at_least=2)
    gold = label(row, "answer", len(choices))
    return Question(text(row, "question"), choices, gold, group=text(row, "subject"))


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The subject and the question; the choices are scored, never shown."""
    question = read(row)
    subject = str(question.group).replace("_", " ")
    query = f"The following are questions about {subject}.\nQuestion: {question.text}\nAnswer:"
    return question.doc(task_name, query, specific={"group": question.group})


TASK = likelihood_task(
    name="mmlu",
    prompt=prompt,
    repo="cais/mmlu",
    subset="all",
    revision="c30699e8356da336a370243923dbaf21066bb9fe",
    split="test",
    docs=14042,
    columns=("question", "subject", "choices", "answer"),
)
