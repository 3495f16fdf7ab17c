"""Winogrande: which of two names fills the gap? (Sakaguchi et al. 2019, arXiv 1907.10641; tasks/README.md)

A row: {"sentence": "The cup fell off the shelf because the _ was slippery.", "option1": "cup",
"option2": "shelf", "answer": "2"}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import likelihood_task
from tasks.common.rows import label, text


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The sentence up to the gap, its trailing space kept; each option with the sentence's rest is scored."""
    sentence = text(row, "sentence")
    if sentence.count("_") != 1:
        raise ValueError(f"'sentence' has {sentence.count('_')} gaps ('_') where one is needed")
    before, after = sentence.split("_")
    rest = after.strip()
    return Doc(
        task_name=task_name,
        query=before,
        choices=[f"{text(row, 'option1')} {rest}", f"{text(row, 'option2')} {rest}"],
        gold_index=label(row, "answer", 2, first=1),
    )


TASK = likelihood_task(
    name="winogrande",
    prompt=prompt,
    repo="allenai/winogrande",
    subset="winogrande_xl",
    revision="85ac5b5a3b7a930e22d590176e39460400d19e41",
    split="validation",
    docs=1267,
    columns=("sentence", "option1", "option2", "answer"),
)
