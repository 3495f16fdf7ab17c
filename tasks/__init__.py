"""The card's benchmarks as lighteval tasks: one file a benchmark, the protocol in tasks/README.md.

``tasks.TASKS_TABLE`` makes this package a custom-task module of lighteval.
"""

from __future__ import annotations

from tasks import (
    arc,
    bbh,
    commonsense_qa,
    gsm8k,
    hellaswag,
    ifeval,
    mmlu,
    mt_bench,
    openbook_qa,
    piqa,
    trivia_qa,
    winogrande,
)
from tasks.common.builders import CardTask

TASKS_TABLE: list[CardTask] = [
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
]

_BY_NAME = {task.name: task for task in TASKS_TABLE}


def get_task(name: str) -> CardTask:
    """The benchmark of that name; KeyError when there is none."""
    return _BY_NAME[name]
