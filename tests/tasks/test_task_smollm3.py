"""The SmolLM3 card's completions are those of lighteval's templates, given rows as the card's recipe gives them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lighteval.tasks.multilingual.adapters import winogrand_adapter
from lighteval.tasks.templates.continuation import get_continuation_prompt_function
from lighteval.tasks.templates.hellaswag import get_hellaswag_prompt_function
from lighteval.tasks.templates.multichoice import get_mcq_prompt_function
from lighteval.tasks.templates.utils.formulation import CFFormulation
from lighteval.utils.language import Language

from evals.data.sources import Source, load
from tasks import get_task
from tasks.common.fewshot import build_doc

ENGLISH, CF = Language.ENGLISH, CFFormulation()
LETTERS = "ABCDE"


def question(ask: str, gold: Any) -> Any:
    """The recipe's reading of a question with lettered choices."""
    return lambda row: {"question": row[ask], "choices": row["choices"]["text"], "gold_idx": gold(row)}


RECIPE = {
    "arc_easy": question("question", lambda row: int(row["answerKey"]) - 1 if row["answerKey"].isdigit()
                         else LETTERS.index(row["answerKey"])),
    "commonsense_qa": question("question", lambda row: row["choices"]["label"].index(row["answerKey"].strip())),
    "openbook_qa": question("question_stem", lambda row: LETTERS.index(row["answerKey"])),
    "piqa": lambda row: {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "gold_idx": int(row["label"])},
    "mmlu": lambda row: {"question": row["question"], "choices": row["choices"], "gold_idx": int(row["answer"])},
}  # fmt: skip
RECIPE["arc_challenge"] = RECIPE["arc_easy"]
TEMPLATES = {name: get_mcq_prompt_function(ENGLISH, adapter, CF) for name, adapter in RECIPE.items()}
TEMPLATES["winogrande"] = get_continuation_prompt_function(ENGLISH, partial(winogrand_adapter, ENGLISH), CF)
TEMPLATES["hellaswag"] = get_hellaswag_prompt_function(
    ENGLISH,
    lambda row: {
        "activity_label": row["activity_label"],
        "ctx_a": row["ctx_a"],
        "ctx_b": row["ctx_b"],
        "continuations": row["endings"],
        "gold_idx": int(row["label"]),
    },
    CF,
)


@pytest.mark.data
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_row(data_dir: Path, name: str) -> None:
    task = get_task(f"smollm3_{name}")
    rows = load(task, Source("folder", data_dir)).rows
    assert len(rows) in (task.docs, 3243)
    for number, row in enumerate(rows):
        ours, theirs = build_doc(task, row, number), TEMPLATES[name](row, name)
        assert (ours.query, ours.choices, [ours.gold_index]) == (
            theirs.query,
            theirs.choices,
            theirs.gold_index,
        )
