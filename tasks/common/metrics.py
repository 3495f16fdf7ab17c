"""The card's scores, as pure functions and as lighteval metrics; one name is one formula (see README.md)."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetric, SampleLevelMetricGrouping
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc, SamplingMethod

if TYPE_CHECKING:
    from tasks.common.builders import CardTask

Scores = dict[str, int | list[int]]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FINAL_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")
_IFEVAL_NAMES = [f"{level}_level_{rule}_acc" for level in ("prompt", "inst") for rule in ("strict", "loose")]


def choice_length(choice: str) -> int:
    """Characters of a choice, one leading space left out; at least 1, since it is divided by."""
    return max(1, len(choice) - choice.startswith(" "))


def first_best(scores: Sequence[float]) -> int:
    """The position of the greatest score; the first of equal ones."""
    return max(range(len(scores)), key=scores.__getitem__)


def predict(doc: Doc, logprobs: Sequence[float]) -> int:
    """The choice with the greatest log-likelihood a character: ``logprobs`` [n_choices] nats.

    Raises ValueError, naming the doc, when their number is not that of the choices or one is not finite.
    """
    sums = _finite(doc, logprobs)
    return first_best([s / choice_length(c) for s, c in zip(sums, doc.choices, strict=True)])


def acc(doc: Doc, logprobs: Sequence[float]) -> int:
    """1 when the gold choice has the greatest log-likelihood (``logprobs`` [n_choices] nats), else 0."""
    return int(first_best(_finite(doc, logprobs)) == doc.gold_index)


def acc_norm_nospace(doc: Doc, logprobs: Sequence[float]) -> int:
    """1 when the gold choice has the greatest log-likelihood a character (see :func:`predict`), else 0."""
    return int(predict(doc, logprobs) == doc.gold_index)


def plain_words(text: str) -> str:
    """``text`` in lower case without ASCII punctuation."""
    return text.lower().translate(_PUNCTUATION)


def alias_match(golds: Sequence[str], output: str) -> int:
    """1 when the output, stripped and made plain, is one of the plain ``golds``; an empty one is wrong."""
    answer = output.strip()
    return int(bool(answer) and plain_words(answer) in golds)


def final_answer(text: str) -> str | None:
    """The number after the first ``#### ``, commas removed; None when there is none."""
    match = _FINAL_ANSWER.search(text)
    return match.group(1).replace(",", "") if match else None


def final_answer_match(gold: str, output: str) -> int:
    """1 when the output's final answer is written like the gold's; no answer is wrong, whatever the gold."""
    answer = final_answer(output)
    return int(answer is not None and answer == final_answer(gold))


def exact_match(gold: str, output: str) -> int:
    """1 when output and gold are equal after stripping white space; an empty output is wrong."""
    answer = output.strip()
    return int(bool(answer) and answer == gold.strip())


def score(task: CardTask, doc: Doc, response: ModelResponse) -> Scores:
    """The score columns of one doc, as results/README.md names them; empty for a task that needs a judge."""
    scores: Scores = {}
    for metric in task.metrics:
        scores.update(metric.compute_sample(doc=doc, model_response=response))
    return scores


def _finite(doc: Doc, logprobs: Sequence[float]) -> list[float]:
    sums = [float(value) for value in logprobs]
    where = f"{doc.task_name} doc {doc.id}"
    if len(sums) != len(doc.choices):
        raise ValueError(f"{where}: {len(sums)} log-likelihoods for {len(doc.choices)} choices")
    if not all(math.isfinite(value) for value in sums):
        raise ValueError(f"{where}: log-likelihoods are not finite: {sums}")
    return sums


def _output(doc: Doc, response: ModelResponse) -> str:
    outputs = response.final_text
    if len(outputs) != 1 or not isinstance(outputs[0], str):
        raise ValueError(f"{doc.task_name} doc {doc.id}: one output is needed, not {len(outputs)}")
    return outputs[0]


class _Likelihood(SampleLevelComputation):
    """lighteval's shape around a function of (doc, log-likelihoods)."""

    def __init__(self, formula: Callable[[Doc, Sequence[float]], int]) -> None:
        self.formula = formula

    def compute(self, doc: Doc, model_response: ModelResponse, **kwargs: Any) -> int:
        """The formula's value for one doc."""
        return self.formula(doc, model_response.logprobs)


class _Text(SampleLevelComputation):
    """lighteval's shape around a function of (doc, output text)."""

    def __init__(self, formula: Callable[[Doc, str], Any]) -> None:
        self.formula = formula

    def compute(self, doc: Doc, model_response: ModelResponse, **kwargs: Any) -> Any:
        """The formula's value for one doc."""
        return self.formula(doc, _output(doc, model_response))


def _ifeval(doc: Doc, output: str) -> Scores:
    from tasks.common.ifeval_checks import (
        follow,  # langdetect and the sentence model: only when IFEval is scored
    )

    assert doc.specific is not None
    strict, loose = follow(doc.query, doc.specific["instruction_id_list"], doc.specific["kwargs"], output)
    return {
        "prompt_level_strict_acc": int(all(strict)),
        "prompt_level_loose_acc": int(all(loose)),
        "inst_level_strict_acc": strict,
        "inst_level_loose_acc": loose,
    }


def share_followed(values: Sequence[Sequence[int]]) -> float:
    """The share of all instructions that were followed (lighteval misreads a name that holds "mean")."""
    return float(np.mean([one for of_prompt in values for one in of_prompt]))


def _metric(name: str, method: SamplingMethod, computation: SampleLevelComputation) -> SampleLevelMetric:
    return SampleLevelMetric(
        metric_name=name,
        higher_is_better=True,
        category=method,
        sample_level_fn=computation,
        corpus_level_fn=np.mean,
    )


ACC = _metric("acc", SamplingMethod.LOGPROBS, _Likelihood(acc))
ACC_NORM_NOSPACE = _metric("acc_norm_nospace", SamplingMethod.LOGPROBS, _Likelihood(acc_norm_nospace))
ALIAS_MATCH = _metric(
    "alias_match", SamplingMethod.GENERATIVE, _Text(lambda doc, output: alias_match(doc.choices, output))
)
FINAL_ANSWER_MATCH = _metric(
    "final_answer_match",
    SamplingMethod.GENERATIVE,
    _Text(lambda doc, output: final_answer_match(doc.choices[0], output)),
)
EXACT_MATCH = _metric(
    "exact_match", SamplingMethod.GENERATIVE, _Text(lambda doc, output: exact_match(doc.choices[0], output))
)
IFEVAL = SampleLevelMetricGrouping(
    metric_name=_IFEVAL_NAMES,
    higher_is_better=dict.fromkeys(_IFEVAL_NAMES, True),  # type: ignore[arg-type]  # lighteval annotates it wrongly
    category=SamplingMethod.GENERATIVE,
    sample_level_fn=_Text(_ifeval),
    corpus_level_fn={
        name: np.mean if name.startswith("prompt") else share_followed for name in _IFEVAL_NAMES
    },
)
