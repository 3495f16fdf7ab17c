"""GSM8K: primary school word problems, five shots (Cobbe et al. 2021, arXiv 2110.14168; tasks/README.md)

A row: {"question": "Ada has 3 pens and buys 2. How many has she?",
"answer": "3 + 2 = <<3+2=5>>5 pens.\\n#### 5"}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from evals.core.metric import final_answer
from tasks.common.builders import generative_task, gold_text
from tasks.common.rows import text


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The question; the gold, and a shot's answer, is the whole rationale with its final answer."""
    answer = text(row, "answer")
    if final_answer(answer) is None:
        raise ValueError("'answer' has no final answer ('#### ' and a number)")
    return Doc(
        task_name=task_name,
        query=f"Question: {text(row, 'question')}\nAnswer:",
        choices=[f" {answer}"],
        gold_index=0,
    )


TASK = generative_task(
    name="gsm8k",
    prompt=prompt,
    repo="openai/gsm8k",
    subset="main",
    revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
    split="test",
    docs=1319,
    columns=("question", "answer"),
    metrics=("final_answer_match",),
    budget=256,
    stops=("Question:", "Question"),
    shots=5,
    shot_split="train",
    shot_docs=7473,
    reference=gold_text,
)
