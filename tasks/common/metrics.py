"""The project's metrics (evals/core/metric.py) in lighteval's shape, and the scores of one doc."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import Metric as LightevalMetric
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc, SamplingMethod

from evals.core.metric import CHOICES, Line, get_metric

if TYPE_CHECKING:
    from tasks.common.builders import CardTask

Scores = dict[str, float | list[int]]


def lighteval_metric(name: str) -> SampleLevelMetric:
    """The metric of that name, which must have a formula, for a task's config."""
    metric = get_metric(name)
    if metric.formula is None:
        raise ValueError(
            f"the metric '{name}' has no formula: give the task a lighteval metric that computes it"
        )
    asks_choices = set(metric.inputs) == set(CHOICES)
    line = likelihood_line if asks_choices else text_line
    return SampleLevelMetric(
        metric_name=name,
        higher_is_better=metric.higher_is_better,
        category=SamplingMethod.LOGPROBS if asks_choices else SamplingMethod.GENERATIVE,
        sample_level_fn=PerDoc(lambda doc, response: metric.formula(line(doc, response))),  # type: ignore[misc]
        corpus_level_fn=np.mean,
    )


def score(task: CardTask, doc: Doc, response: ModelResponse) -> Scores:
    """The score columns of one doc, as results/README.md names them; empty for a task that waits for a judge."""
    scores: Scores = {}
    for metric in task.metrics:
        scores.update(metric.compute_sample(doc=doc, model_response=response))
    return scores


def likelihood_line(doc: Doc, response: ModelResponse) -> Line:
    """What a formula reads of a doc with choices: log-likelihoods [n_choices] nats.

    Raises ValueError, naming the doc, when their number is not that of the choices or one is not finite.
    """
    sums = [float(value) for value in response.logprobs]
    where = f"{doc.task_name} doc {doc.id}"
    if len(sums) != len(doc.choices):
        raise ValueError(f"{where}: {len(sums)} log-likelihoods for {len(doc.choices)} choices")
    if not all(math.isfinite(value) for value in sums):
        raise ValueError(f"{where}: log-likelihoods are not finite: {sums}")
    return {"choices": doc.choices, "gold": doc.gold_index, "logprobs": sums}


def text_line(doc: Doc, response: ModelResponse) -> Line:
    """What a formula reads of a doc with a written answer. Raises ValueError unless there is exactly one."""
    outputs = response.final_text
    if len(outputs) != 1 or not isinstance(outputs[0], str):
        raise ValueError(f"{doc.task_name} doc {doc.id}: one output is needed, not {len(outputs)}")
    return {"gold": doc.choices, "output": outputs[0]}


class PerDoc(SampleLevelComputation):
    """lighteval's shape around a function of a doc and the model's response."""

    def __init__(self, function: Callable[[Doc, ModelResponse], Any]) -> None:
        self.function = function

    def compute(self, doc: Doc, model_response: ModelResponse, **kwargs: Any) -> Any:
        """The function's value for one doc."""
        return self.function(doc, model_response)


def as_lighteval(metrics: Sequence[str | LightevalMetric]) -> list[LightevalMetric]:
    """A task's metrics: names of the project's own, or lighteval metrics."""
    return [lighteval_metric(one) if isinstance(one, str) else one for one in metrics]
