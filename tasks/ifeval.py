"""IFEval: instructions that a program can check (Zhou et al. 2023, arXiv 2311.07911; tasks/README.md)

A row: {"prompt": "Name three trees. Use no commas.",
"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lighteval.tasks.requests import Doc

from tasks.common import ifeval_checks
from tasks.common.builders import generative_task
from tasks.common.metrics import text_line
from tasks.common.rows import field, text, texts

if TYPE_CHECKING:
    from lighteval.models.model_output import ModelResponse


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The prompt as it is; ``specific`` carries its instructions, without the arguments that are null."""
    query = text(row, "prompt")
    ids = texts(row, "instruction_id_list")
    given = field(row, "kwargs")
    listed = isinstance(given, list | tuple) and len(given) == len(ids)
    if not listed or not all(isinstance(one, Mapping) for one in given):
        raise ValueError(
            f"'kwargs' is not a list of {len(ids)} sets of names and values, one for each instruction"
        )
    kwargs = [{name: value for name, value in one.items() if value is not None} for one in given]
    for instruction, arguments in zip(ids, kwargs, strict=True):
        # a wrong one is found now, not after hours of generation
        ifeval_checks.build(instruction, arguments, query)
    return Doc(
        task_name=task_name,
        query=query,
        choices=[],
        gold_index=[],
        specific={"item_names": ids, "kwargs": kwargs},
    )


def follow(doc: Doc, response: ModelResponse) -> dict[str, int | list[int]]:
    """The score columns of one answer: whole prompts, and instruction by instruction."""
    assert doc.specific is not None
    answer = text_line(doc, response)["output"]
    strict, loose = ifeval_checks.follow(
        doc.query, doc.specific["item_names"], doc.specific["kwargs"], answer
    )
    return {
        "prompt_level_strict_acc": int(all(strict)),
        "prompt_level_loose_acc": int(all(loose)),
        "inst_level_strict_acc": strict,
        "inst_level_loose_acc": loose,
    }


TASK = generative_task(
    name="ifeval",
    prompt=prompt,
    repo="google/IFEval",
    subset="default",
    revision=None,
    split="train",
    docs=541,
    columns=("prompt", "instruction_id_list", "kwargs"),
    metrics=(
        "prompt_level_strict_acc",
        "prompt_level_loose_acc",
        "inst_level_strict_acc",
        "inst_level_loose_acc",
    ),
    scorer=follow,
    budget=1280,
    keep=("item_names",),
    ready=ifeval_checks.try_checkers,
)
