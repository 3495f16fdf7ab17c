"""The SmolLM3 card's completions ("CF"): lighteval's own templates on rows of benchmarks that are here already

Recipe: huggingface/smollm, text/evaluation/smollm3 (lighteval 2788496c), zero-shot. The templates put `Question:` and
`Answer:` around a question, begin each choice with a capital letter, and clean HellaSwag in their own way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lighteval.tasks.multilingual.adapters import winogrand_adapter
from lighteval.tasks.requests import Doc
from lighteval.tasks.templates.continuation import get_continuation_prompt_function
from lighteval.tasks.templates.hellaswag import get_hellaswag_prompt_function
from lighteval.tasks.templates.multichoice import get_mcq_prompt_function
from lighteval.tasks.templates.utils.formulation import CFFormulation
from lighteval.utils.language import Language

from tasks import arc, commonsense_qa, hellaswag, mmlu, openbook_qa, piqa, winogrande
from tasks.common.builders import CardTask
from tasks.common.questions import Read

METRICS = ("acc", "acc_per_token", "acc_per_char")
ENGLISH, COMPLETIONS = Language.ENGLISH, CFFormulation()

Template = Callable[[dict[str, Any], str], Doc | None]


def _questions(read: Read) -> Template:
    def given(row: dict[str, Any]) -> Any:
        question = read(row)
        return {"question": question.text, "choices": list(question.choices), "gold_idx": question.gold}

    return get_mcq_prompt_function(ENGLISH, given, COMPLETIONS)


def _scene(row: dict[str, Any]) -> Any:
    same = {name: row[name] for name in ("activity_label", "ctx_a", "ctx_b")}
    return {**same, "continuations": list(row["endings"]), "gold_idx": int(row["label"])}


SCENES: Template = get_hellaswag_prompt_function(ENGLISH, _scene, COMPLETIONS)
GAPS: Template = get_continuation_prompt_function(
    ENGLISH, lambda row: winogrand_adapter(ENGLISH, row), COMPLETIONS
)


def _of(task: CardTask, template: Template) -> CardTask:
    """The template's query and choices on the rows of a task that is here already, which checks them."""

    def prompt(row: dict[str, Any], task_name: str) -> Doc:
        checked, doc = task.prompt(row, task_name), template(row, task_name)
        if doc is None:
            raise ValueError("nothing is left of the question or of a choice once it is cleaned")
        return replace(checked, query=doc.query, choices=doc.choices)

    return replace(task, name=f"smollm3_{task.name}", home=task.name, prompt=prompt, metrics=METRICS)


TASKS = [
    _of(hellaswag.TASK, SCENES),
    *(_of(task, _questions(arc.read)) for task in arc.TASKS),
    _of(winogrande.TASK, GAPS),
    _of(commonsense_qa.TASK, _questions(commonsense_qa.read)),
    _of(mmlu.TASK, _questions(mmlu.read)),
    _of(piqa.TASK, _questions(piqa.read)),
    _of(openbook_qa.TASK, _questions(openbook_qa.read)),
]
