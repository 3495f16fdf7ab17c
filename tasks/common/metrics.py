"""The scores of one doc, by the formulas of evals/core/metric.py or the task's own scorer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lighteval.tasks.requests import Doc

from evals.core.metric import UNCONDITIONED, Line, first_best, get_metric, predict

if TYPE_CHECKING:
    from lighteval.models.model_output import ModelResponse

    from tasks.common.builders import CardTask, Scores


def score(task: CardTask, doc: Doc, response: ModelResponse, line: Line | None = None) -> Scores:
    """The score columns of one doc, as results/README.md names them; empty for a task that waits for a judge.

    `line`: what a formula reads, where it has been made already.
    """
    if task.scorer is not None:
        return task.scorer(doc, response)
    if not task.metrics:
        return {}
    if line is None:
        line = likelihood_line(doc, response) if task.asks_choices else text_line(doc, response)
    return {name: formula(line) for name in task.metrics if (formula := get_metric(name).formula)}


def likelihood_line(doc: Doc, response: ModelResponse) -> Line:
    """What a formula reads of a doc with choices: log-likelihoods [n_choices] nats, and the choices' tokens.

    Raises ValueError, naming the doc, when their number is not that of the choices or one is not finite.
    """
    line = {"choices": doc.choices, "gold": doc.gold_index, "logprobs": _finite(doc, response.logprobs)}
    line["n_tokens"] = [len(tokens) for tokens in response.output_tokens]
    if response.unconditioned_logprobs is not None:
        line[UNCONDITIONED] = _finite(doc, response.unconditioned_logprobs)
    return line


def _finite(doc: Doc, values: Sequence[float]) -> list[float]:
    sums = [float(value) for value in values]
    where = f"{doc.task_name} doc {doc.id}"
    if len(sums) != len(doc.choices):
        raise ValueError(f"{where}: {len(sums)} log-likelihoods for {len(doc.choices)} choices")
    if not all(math.isfinite(value) for value in sums):
        raise ValueError(f"{where}: log-likelihoods are not finite: {sums}")
    return sums


def prediction(task: CardTask, line: Line) -> int:
    """The choice that a task's answer is: the first of the greatest by the last of its metrics that rank choices."""
    rankings = [ranking for name in task.metrics if (ranking := get_metric(name).ranking)]
    return first_best(rankings[-1](line)) if rankings else predict(line["choices"], line["logprobs"])


def text_line(doc: Doc, response: ModelResponse) -> Line:
    """What a formula reads of a doc with a written answer. Raises ValueError unless there is exactly one."""
    outputs = response.final_text
    if len(outputs) != 1 or not isinstance(outputs[0], str):
        raise ValueError(f"{doc.task_name} doc {doc.id}: one output is needed, not {len(outputs)}")
    return {"gold": doc.choices, "output": outputs[0]}
