"""BoolQ: yes or no, by a passage (Clark et al. 2019, arXiv 1905.10044); OLMES's formulations (tasks/README.md)

A row: {"passage": "Spoon -- A spoon is a tool for eating.", "question": "is a spoon an animal", "label": 0}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.common.questions import Question, formulations
from tasks.common.rows import label, text


def read(row: Mapping[str, Any]) -> Question:
    """The passage and the question, which gets its question mark; `label` 1 is yes."""
    asked = f"{text(row, 'passage')}\nQuestion: {text(row, 'question')}?"
    return Question(asked, ["yes", "no"], 1 - label(row, "label", 2), label="")


TASKS = formulations(
    "boolq",
    read,
    metric="acc",
    shots="9a60688196f8b851 15705b65c5350569 0345dc6776617a0b b81762c831e3cd3b 4d4f393bcb665aa1",
    repo="aps/super_glue",
    subset="boolq",
    revision=None,
    split="validation",
    docs=3270,
    shot_docs=9427,
    columns=("passage", "question", "label"),
)
