"""CommonsenseQA: everyday questions with five answers (Talmor et al. 2019, arXiv 1811.00937; tasks/README.md)

A row: {"question": "Where does one keep milk cold?", "choices": {"label": ["A", "B", "C", "D", "E"],
"text": ["fridge", "shelf", "oven", "car", "garden"]}, "answerKey": "A"}
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.questions import lettered

read = partial(lettered, column="question")


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The question as it stands, without any frame; the choices are scored, never shown."""
    question = read(row)
    return question.doc(task_name, question.text)


TASK = likelihood_task(
    name="commonsense_qa",
    prompt=prompt,
    repo="tau/commonsense_qa",
    subset="default",
    revision="94630fe30dad47192a8546eb75f094926d47e155",
    split="validation",
    docs=1221,
    columns=("question", "choices", "answerKey"),
)
