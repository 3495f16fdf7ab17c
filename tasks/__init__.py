"""The cards' benchmarks: one file a benchmark, the protocol in tasks/README.md.

``tasks.TASKS_TABLE``, made when it is asked for, makes this package a custom-task module of lighteval.
"""

from __future__ import annotations

from typing import Any

from tasks import (
    arc,
    bbh,
    boolq,
    commonsense_qa,
    gsm8k,
    hellaswag,
    ifeval,
    mmlu,
    mt_bench,
    olmes,
    openbook_qa,
    piqa,
    smollm3,
    social_iqa,
    trivia_qa,
    winogrande,
)
from tasks.common.builders import CardTask

TASKS: dict[str, CardTask] = {
    task.name: task
    for task in (
        hellaswag.TASK,
        *arc.TASKS,
        piqa.TASK,
        mmlu.TASK,
        commonsense_qa.TASK,
        trivia_qa.TASK,
        winogrande.TASK,
        openbook_qa.TASK,
        gsm8k.TASK,
        ifeval.TASK,
        mt_bench.TASK,
        *bbh.TASKS,
        *olmes.TASKS,
        *boolq.TASKS,
        *social_iqa.TASKS,
        *smollm3.TASKS,
    )
}


def get_task(name: str) -> CardTask:
    """The benchmark of that name; KeyError when there is none."""
    return TASKS[name]


def __getattr__(name: str) -> Any:
    if name == "TASKS_TABLE":  # where lighteval's registry looks
        from tasks.common.lighteval import config

        return [config(task) for task in TASKS.values()]
    raise AttributeError(f"module 'tasks' has no attribute '{name}'")
