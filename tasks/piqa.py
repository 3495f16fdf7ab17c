"""PIQA: which of two ways reaches a goal? (Bisk et al. 2020, arXiv 1911.11641; the protocol: tasks/README.md)

A row: {"goal": "Loosen a stuck jar lid", "sol1": "Run hot water over the lid.",
"sol2": "Put the jar in the freezer.", "label": 0}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.questions import Question
from tasks.common.rows import label, text


def read(row: Mapping[str, Any]) -> Question:
    """The goal, and which of the two solutions reaches it."""
    solutions = [text(row, "sol1"), text(row, "sol2")]
    return Question(text(row, "goal"), solutions, label(row, "label", 2), label="Goal: ")


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The goal as a question; the solutions are scored, never shown."""
    question = read(row)
    return question.doc(task_name, f"Question: {question.text}\nAnswer:")


TASK = likelihood_task(
    name="piqa",
    prompt=prompt,
    repo="ybisk/piqa",
    subset="plain_text",
    revision="2e8ac2dffd59bac8c3c6714948f4c551a0848bb0",
    split="validation",
    docs=1838,
    columns=("goal", "sol1", "sol2", "label"),
)
