"""What a benchmark of the card is: lighteval's task config with the facts that the protocol pins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lighteval.metrics.utils.metric_utils import Metric as LightevalMetric
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

from tasks.common.metrics import as_lighteval

PromptFunction = Callable[[dict[str, Any], str], Doc]
FollowUp = Callable[[Doc, str], Doc]


@dataclass
class CardTask(LightevalTaskConfig):
    """A benchmark as the card ran it; a plain ``LightevalTaskConfig`` to lighteval.

    ``hf_revision`` is the recipe's commit, also where that commit is a loading script; None: it pins none.
    """

    docs: int = 0  # rows of the evaluation split, officially
    shot_docs: int = 0  # rows of the few-shot split, officially; 0: the shots come from the evaluation split
    columns: tuple[str, ...] = ()  # columns that the prompt function reads, in every split used
    method: SamplingMethod = SamplingMethod.LOGPROBS  # what is asked of the model
    follow_up: FollowUp | None = None  # the second turn of a first turn's doc and the answer to it
    keep: tuple[str, ...] = ()  # entries of a doc's ``specific`` that its samples keep as columns
    folder: str = ""  # where a folder of data keeps this task; the task's name unless told
    ready: Callable[[], None] | None = (
        None  # tries what scoring needs beyond this package; raises what is wrong
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.folder = self.folder or self.name

    @property
    def split(self) -> str:
        """The one split that is evaluated."""
        return str(self.evaluation_splits[0])

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that a run needs: the evaluated one, and the few-shot one where it is another."""
        shots = self.few_shots_split if self.num_fewshots else None
        return (self.split,) if shots in (None, self.split) else (self.split, str(shots))

    def stem(self, split: str) -> str:
        """Where a folder of data keeps ``split``, without the ending: ``piqa/validation``, ``bbh/snarks``."""
        shares_folder = self.folder != self.name  # with the other subsets, each in a file of its own
        return f"{self.folder}/{self.hf_subset if shares_folder else split}"


def likelihood_task(
    name: str,
    prompt: PromptFunction,
    *,
    repo: str,
    subset: str,
    revision: str,
    split: str,
    docs: int,
    columns: tuple[str, ...],
    metrics: Sequence[str | LightevalMetric] = ("acc", "acc_norm_nospace"),
) -> CardTask:
    """A zero-shot choice between given continuations, scored by their log-likelihood."""
    return CardTask(
        name=name,
        prompt_function=prompt,
        hf_repo=repo,
        hf_subset=subset,
        hf_revision=revision,
        hf_avail_splits=[split],
        evaluation_splits=[split],
        metrics=as_lighteval(metrics),
        docs=docs,
        columns=columns,
    )


def generative_task(
    name: str,
    prompt: PromptFunction,
    *,
    repo: str,
    subset: str,
    revision: str | None,
    split: str,
    docs: int,
    columns: tuple[str, ...],
    metrics: Sequence[str | LightevalMetric],
    budget: int | None,
    stops: tuple[str, ...] = (),
    shots: int = 0,
    shot_split: str | None = None,
    shot_docs: int = 0,
    follow_up: FollowUp | None = None,
    keep: tuple[str, ...] = (),
    folder: str = "",
    ready: Callable[[], None] | None = None,
) -> CardTask:
    """A text to write, of at most ``budget`` tokens (None: to the window's end), scored by ``metrics``."""
    splits = [split] if shot_split in (None, split) else [split, str(shot_split)]
    return CardTask(
        name=name,
        prompt_function=prompt,
        hf_repo=repo,
        hf_subset=subset,
        hf_revision=revision,
        hf_avail_splits=splits,
        evaluation_splits=[split],
        few_shots_split=shot_split,
        few_shots_select="random_sampling_from_train" if shot_docs else "balanced",
        num_fewshots=shots,
        generation_size=budget,
        stop_sequence=list(stops),
        metrics=as_lighteval(metrics),
        docs=docs,
        shot_docs=shot_docs,
        columns=columns,
        method=SamplingMethod.GENERATIVE,
        follow_up=follow_up,
        keep=keep,
        folder=folder,
        ready=ready,
    )
