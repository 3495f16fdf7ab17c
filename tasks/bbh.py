"""BIG-Bench Hard: 27 puzzles that need several steps, answered at once (Suzgun et al. 2022, arXiv 2210.09261)

A row: {"input": "not True or True is", "target": "True"}
"""

from __future__ import annotations

from typing import Any

from lighteval.tasks.requests import Doc

from tasks.common.builders import generative_task, gold_text
from tasks.common.rows import text

SUBSETS = """
    boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages
    formal_fallacies geometric_shapes hyperbaton logical_deduction_five_objects
    logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation
    multistep_arithmetic_two navigate object_counting penguins_in_a_table reasoning_about_colored_objects
    ruin_names salient_translation_error_detection snarks sports_understanding temporal_sequences
    tracking_shuffled_objects_five_objects tracking_shuffled_objects_seven_objects
    tracking_shuffled_objects_three_objects web_of_lies word_sorting
"""
DOCS = {"causal_judgement": 187, "penguins_in_a_table": 146, "snarks": 178}  # the others: 250


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The puzzle; the trailing space belongs to it, and a shot's target follows it directly."""
    return Doc(
        task_name=task_name,
        query=f"Question: {text(row, 'input')}\nAnswer: ",
        choices=[text(row, "target")],
        gold_index=0,
    )


TASKS = [
    generative_task(
        name=f"bbh_{subset}",
        prompt=prompt,
        repo="lighteval/big_bench_hard",
        subset=subset,
        revision="80610173426f05e6f1448f047e2db4840a7dd899",
        split="train",
        docs=DOCS.get(subset, 250),
        columns=("input", "target"),
        metrics=("exact_match",),
        budget=None,
        stops=("Question:", "Question"),
        shots=3,
        shot_split="train",
        folder="bbh",
        reference=gold_text,
    )
    for subset in SUBSETS.split()
]
