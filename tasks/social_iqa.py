"""Social IQa: what people feel and do next (Sap et al. 2019, arXiv 1904.09728); OLMES's formulations (tasks/README.md)

A row: {"context": "Ida lent Tom her bike.", "question": "How would Tom feel?", "answerA": "thankful",
"answerB": "hungry", "answerC": "tall", "label": "1"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.common.questions import Question, formulations
from tasks.common.rows import label, text


def read(row: Mapping[str, Any]) -> Question:
    """The situation and the question in one line."""
    choices = [text(row, f"answer{letter}") for letter in "ABC"]
    asked = f"{text(row, 'context')} {text(row, 'question')}"
    return Question(asked, choices, label(row, "label", 3, first=1))


TASKS = formulations(
    "social_iqa",
    read,
    metric="acc_per_char",
    shots="90a7380e8493db4b 2ebf7f1dde9fa3fe 3cff67573f88de1b 79fefdfdd3ebd035 777f564b662e4afd",
    repo="allenai/social_i_qa",
    subset="default",
    revision="aaaad979029e0df5946111799787313c99c03510",
    split="validation",
    docs=1954,
    shot_docs=33410,
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
)
