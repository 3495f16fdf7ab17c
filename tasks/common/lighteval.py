"""A benchmark as lighteval's task config; with lighteval's metric classes, whose imports take seconds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetricGrouping
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc

from evals.core.metric import get_metric
from tasks.common.builders import CardTask, Scores
from tasks.common.metrics import score


def config(task: CardTask) -> LightevalTaskConfig:
    """What lighteval's registry takes."""
    shots = (
        "sequential" if task.fixed_shots else "random_sampling_from_train" if task.shot_docs else "balanced"
    )
    return LightevalTaskConfig(
        name=task.name,
        prompt_function=task.prompt,
        hf_repo=task.repo,
        hf_subset=task.subset,
        hf_revision=task.revision,
        hf_avail_splits=list(dict.fromkeys(filter(None, (task.split, task.shot_split)))),
        evaluation_splits=[task.split],
        few_shots_split=task.shot_split,
        few_shots_select=shots,
        num_fewshots=task.shots,
        generation_size=task.budget,
        stop_sequence=list(task.stops),
        metrics=[_metrics(task)] if task.metrics else [],
    )


def _metrics(task: CardTask) -> SampleLevelMetricGrouping:
    metrics = {name: get_metric(name) for name in task.metrics}
    better = {name: metric.higher_is_better for name, metric in metrics.items()}
    return SampleLevelMetricGrouping(
        metric_name=list(metrics),
        higher_is_better=better,  # type: ignore[arg-type]  # lighteval annotates it wrongly
        category=task.method,
        sample_level_fn=TaskScorer(task),
        corpus_level_fn={k: np.mean if one.shape == "doc" else mean_of_items for k, one in metrics.items()},
    )


class TaskScorer(SampleLevelComputation):
    """lighteval's shape around the scores of a task."""

    def __init__(self, task: CardTask) -> None:
        self.task = task

    def compute(self, doc: Doc, model_response: ModelResponse, **kwargs: Any) -> Scores:
        """The scores of one doc, by metric."""
        return score(self.task, doc, model_response)


def mean_of_items(values: Sequence[Sequence[int]]) -> float:
    """The mean over all items of all docs."""
    return float(np.mean(list(itertools.chain.from_iterable(values))))
