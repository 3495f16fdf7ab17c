"""PIQA: which of two ways reaches a goal? (Bisk et al. 2020, arXiv 1911.11641; the protocol: tasks/README.md)

A row: {"goal": "Loosen a stuck jar lid", "sol1": "Run hot water over the lid.",
"sol2": "Put the jar in the freezer.", "label": 0}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.rows import label, text


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The goal as a question; the solutions are scored, never shown."""
    return Doc(
        task_name=task_name,
        query=f"Question: {text(row, 'goal')}\nAnswer:",
        choices=[f" {text(row, 'sol1')}", f" {text(row, 'sol2')}"],
        gold_index=label(row, "label", 2),
    )


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
