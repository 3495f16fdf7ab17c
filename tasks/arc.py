"""ARC: science questions of school exams (Clark et al. 2018, arXiv 1803.05457; the protocol: tasks/README.md)

A row: {"question": "Which of these is a liquid at room temperature?",
"choices": {"text": ["iron", "water", "salt", "oxygen"], "label": ["A", "B", "C", "D"]}, "answerKey": "B"}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import CardTask, likelihood_task
from tasks.common.rows import lettered_choices, text


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The question alone; the choices are scored, never shown."""
    choices, gold = lettered_choices(row)
    return Doc(
        task_name=task_name,
        query=f"Question: {text(row, 'question')}\nAnswer:",
        choices=[f" {choice}" for choice in choices],
        gold_index=gold,
    )


def _task(name: str, subset: str, docs: int) -> CardTask:
    return likelihood_task(
        name=name,
        prompt=prompt,
        repo="allenai/ai2_arc",
        subset=subset,
        revision="210d026faf9955653af8916fad021475a3f00453",
        split="test",
        docs=docs,
        columns=("question", "choices", "answerKey"),
    )


TASKS = [_task("arc_easy", "ARC-Easy", 2376), _task("arc_challenge", "ARC-Challenge", 1172)]
