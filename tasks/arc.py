"""ARC: science questions of school exams (Clark et al. 2018, arXiv 1803.05457; the protocol: tasks/README.md)

A row: {"question": "Which of these is a liquid at room temperature?",
"choices": {"text": ["iron", "water", "salt", "oxygen"], "label": ["A", "B", "C", "D"]}, "answerKey": "B"}
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.questions import lettered

read = partial(lettered, column="question")


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The question alone; the choices are scored, never shown."""
    question = read(row)
    return question.doc(task_name, f"Question: {question.text}\nAnswer:")


TASKS = [
    likelihood_task(
        name=name,
        prompt=prompt,
        repo="allenai/ai2_arc",
        subset=subset,
        revision="210d026faf9955653af8916fad021475a3f00453",
        split="test",
        docs=docs,
        columns=("question", "choices", "answerKey"),
    )
    for name, subset, docs in (("arc_easy", "ARC-Easy", 2376), ("arc_challenge", "ARC-Challenge", 1172))
]
