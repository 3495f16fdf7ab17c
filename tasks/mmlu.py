"""MMLU: exam questions of 57 subjects, cloze (Hendrycks et al. 2021, arXiv 2009.03300; tasks/README.md)

A row: {"question": "How many sides has a hexagon?", "subject": "elementary_mathematics",
"choices": ["4", "5", "6", "8"], "answer": 2}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.rows import label, text, texts


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The subject and the question; the choices are scored, never shown. The doc's group is the subject."""
    subject = text(row, "subject")
    choices = texts(row, "choices", at_least=2)
    return Doc(
        task_name=task_name,
        query=(
            f"The following are questions about {subject.replace('_', ' ')}.\n"
            f"Question: {text(row, 'question')}\nAnswer:"
        ),
        choices=[f" {choice}" for choice in choices],
        gold_index=label(row, "answer", len(choices)),
        specific={"group": subject},
    )


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
