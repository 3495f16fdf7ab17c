"""HellaSwag: how does the scene go on? (Zellers et al. 2019, arXiv 1905.07830; the protocol: tasks/README.md)

A row: {"activity_label": "Baking bread", "ctx_a": "A man kneads dough.", "ctx_b": "he",
"endings": ["puts it in a bowl.", "rides a bike.", "sings to it.", "paints a wall."], "label": "0"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.rows import label, text, texts


def clean(told: str) -> str:
    """The text without WikiHow's marks: titles end a sentence, brackets go, two spaces become one."""
    return re.sub(r"\[.*?\]", "", told.replace(" [title]", ". ")).replace("  ", " ")


def scene(row: Mapping[str, Any]) -> str:
    """The activity and the scene so far, as they are."""
    begin = text(row, "ctx_b", blank=True).capitalize()
    return f"{text(row, 'activity_label')}: {text(row, 'ctx_a', blank=True)} {begin}"


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The scene with a space at its end; the endings are scored."""
    endings = texts(row, "endings", at_least=2)
    return Doc(
        task_name=task_name,
        query=clean(f"{scene(row)} "),
        choices=[" " + clean(ending) for ending in endings],
        gold_index=label(row, "label", len(endings)),
    )


TASK = likelihood_task(
    name="hellaswag",
    prompt=prompt,
    repo="Rowan/hellaswag",
    subset="default",
    revision="6002345709e0801764318f06bf06ce1e7d1a1fe3",
    split="validation",
    docs=10042,
    columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
)
