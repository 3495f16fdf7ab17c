"""The SmolLM3 card's completions ("CF"): lighteval's own templates on rows of benchmarks that are here already

Recipe: huggingface/smollm, text/evaluation/smollm3 (lighteval 2788496c), zero-shot. The templates put `Question:` and
`Answer:` around a question, begin each choice with a capital letter, and clean HellaSwag in their own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lighteval.tasks.multilingual.adapters import winogrand_adapter
from lighteval.tasks.requests import Doc
from lighteval.tasks.templates.continuation import get_continuation_prompt_function
from lighteval.tasks.templates.hellaswag import get_hellaswag_prompt_function
from lighteval.tasks.templates.multichoice import get_mcq_prompt_function
from lighteval.tasks.templates.utils.formulation import CFFormulation
from lighteval.utils.language import Language

from tasks import arc, commonsense_qa, hellaswag, mmlu, openbook_qa, piqa, winogrande
from tasks.common.builders import CardTask, likelihood_task
from tasks.common.rows import label, lettered_choices, text, texts

METRICS = ("acc", "acc_per_token", "acc_per_char")

Given = dict[str, Any]  # what a template takes
Template = Callable[[Given, str], Doc | None]


def _given(row: Any) -> Any:
    """The template's adapter: rows are read before, and checked."""
    return row


_QUESTION: Template = get_mcq_prompt_function(Language.ENGLISH, _given, CFFormulation())
_SCENE: Template = get_hellaswag_prompt_function(Language.ENGLISH, _given, CFFormulation())
_GAP: Template = get_continuation_prompt_function(
    Language.ENGLISH, lambda row: winogrand_adapter(Language.ENGLISH, row), CFFormulation()
)


def lettered(column: str) -> Callable[[Mapping[str, Any]], Given]:
    """Reads ARC, CommonsenseQA and OpenBookQA."""

    def read(row: Mapping[str, Any]) -> Given:
        choices, gold = lettered_choices(row)
        return {"question": text(row, column), "choices": choices, "gold_idx": gold}

    return read


def goal(row: Mapping[str, Any]) -> Given:
    """Reads PIQA."""
    choices = [text(row, "sol1"), text(row, "sol2")]
    return {"question": text(row, "goal"), "choices": choices, "gold_idx": label(row, "label", 2)}


def subject(row: Mapping[str, Any]) -> Given:
    """Reads MMLU; the subject is not in the prompt."""
    choices = texts(row, "choices", at_least=2)
    return {
        "question": text(row, "question"),
        "choices": choices,
        "gold_idx": label(row, "answer", len(choices)),
    }


def scene(row: Mapping[str, Any]) -> Given:
    """Reads HellaSwag."""
    endings = texts(row, "endings", at_least=2)
    return {
        "activity_label": text(row, "activity_label"),
        "ctx_a": text(row, "ctx_a", blank=True),
        "ctx_b": text(row, "ctx_b", blank=True),
        "continuations": endings,
        "gold_idx": label(row, "label", len(endings)),
    }


def gap(row: Mapping[str, Any]) -> Given:
    """Reads Winogrande, as its row is."""
    label(row, "answer", 2, first=1)
    return {name: text(row, name) for name in ("sentence", "option1", "option2", "answer")}


def _of(
    task: CardTask,
    read: Callable[[Mapping[str, Any]], Given],
    template: Template = _QUESTION,
    group: str = "",
) -> CardTask:
    def prompt(row: dict[str, Any], task_name: str) -> Doc:
        doc = template(read(row), task_name)
        if doc is None:
            raise ValueError("nothing is left of the question or of a choice once it is cleaned")
        gold = doc.gold_index[0] if isinstance(doc.gold_index, list) else doc.gold_index
        specific = {"group": text(row, group)} if group else None
        return Doc(
            task_name=task_name, query=doc.query, choices=doc.choices, gold_index=gold, specific=specific
        )

    same = ("repo", "subset", "revision", "split", "docs", "columns")
    facts = {name: getattr(task, name) for name in same}
    return likelihood_task(
        name=f"smollm3_{task.name}", home=task.name, prompt=prompt, metrics=METRICS, **facts
    )


TASKS = [
    _of(hellaswag.TASK, scene, _SCENE),
    *(_of(task, lettered("question")) for task in arc.TASKS),
    _of(winogrande.TASK, gap, _GAP),
    _of(commonsense_qa.TASK, lettered("question")),
    _of(mmlu.TASK, subject, group="subject"),
    _of(piqa.TASK, goal),
    _of(openbook_qa.TASK, lettered("question_stem")),
]
