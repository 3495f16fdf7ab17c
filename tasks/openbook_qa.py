"""OpenBookQA: elementary science with four answers (Mihaylov et al. 2018, arXiv 1809.02789; tasks/README.md)

A row: {"question_stem": "Ice melts when it gets", "choices": {"text": ["warm", "cold", "dark", "loud"],
"label": ["A", "B", "C", "D"]}, "answerKey": "A"}
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.questions import lettered

read = partial(lettered, column="question_stem")


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The question's stem as it stands; the choices are scored, never shown."""
    question = read(row)
    return question.doc(task_name, question.text)


TASK = likelihood_task(
    name="openbook_qa",
    prompt=prompt,
    repo="allenai/openbookqa",
    subset="main",
    revision="388097ea7776314e93a529163e0fea805b8a6454",
    split="validation",
    docs=500,
    columns=("question_stem", "choices", "answerKey"),
)
