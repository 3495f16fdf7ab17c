"""BIG-Bench Hard: 27 puzzles that need several steps, answered at once (Suzgun et al. 2022, arXiv 2210.09261)

A row: {"input": "not True or True is", "target": "True"}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import CardTask, generative_task, gold_text
from tasks.common.rows import text

SUBSETS = {
    "boolean_expressions": 250,
    "causal_judgement": 187,
    "date_understanding": 250,
    "disambiguation_qa": 250,
    "dyck_languages": 250,
    "formal_fallacies": 250,
    "geometric_shapes": 250,
    "hyperbaton": 250,
    "logical_deduction_five_objects": 250,
    "logical_deduction_seven_objects": 250,
    "logical_deduction_three_objects": 250,
    "movie_recommendation": 250,
    "multistep_arithmetic_two": 250,
    "navigate": 250,
    "object_counting": 250,
    "penguins_in_a_table": 146,
    "reasoning_about_colored_objects": 250,
    "ruin_names": 250,
    "salient_translation_error_detection": 250,
    "snarks": 178,
    "sports_understanding": 250,
    "temporal_sequences": 250,
    "tracking_shuffled_objects_five_objects": 250,
    "tracking_shuffled_objects_seven_objects": 250,
    "tracking_shuffled_objects_three_objects": 250,
    "web_of_lies": 250,
    "word_sorting": 250,
}


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The puzzle; the trailing space belongs to it, and a shot's target follows it directly."""
    return Doc(
        task_name=task_name,
        query=f"Question: {text(row, 'input')}\nAnswer: ",
        choices=[text(row, "target")],
        gold_index=0,
    )


def _task(subset: str, docs: int) -> CardTask:
    return generative_task(
        name=f"bbh_{subset}",
        prompt=prompt,
        repo="lighteval/big_bench_hard",
        subset=subset,
        revision="80610173426f05e6f1448f047e2db4840a7dd899",
        split="train",
        docs=docs,
        columns=("input", "target"),
        metrics=("exact_match",),
        budget=None,
        stops=("Question:", "Question"),
        shots=3,
        shot_split="train",
        folder="bbh",
        reference=gold_text,
    )


TASKS = [_task(subset, docs) for subset, docs in SUBSETS.items()]
