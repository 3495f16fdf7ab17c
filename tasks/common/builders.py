"""What a benchmark of a card is: its prompt function and the facts that the protocol pins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lighteval.tasks.requests import Doc, SamplingMethod

from evals.core.metric import CHOICES, UNCONDITIONED, get_metric

if TYPE_CHECKING:
    from lighteval.models.model_output import ModelResponse

Row = dict[str, Any]
Scores = Mapping[str, float | list[int]]


@dataclass(frozen=True)
class FixedShots:
    """Shots that nobody draws. `names`: these rows of the few-shot split, in this order, the same for all docs.

    A name is a digest of what a row asks: half of the data sets number no rows, and a text is data, not code. Without
    `names`, a doc's shots are the first rows of the few-shot split that `sign` puts in the doc's group.
    """

    sign: Callable[[Mapping[str, Any]], str]  # a row's name, or its group
    names: tuple[str, ...] = ()

    def pick(self, rows: Sequence[Row]) -> list[Row]:
        """The named rows, in order. Raises ValueError when some are not there."""
        by_name: dict[str, Row] = {}
        for row in rows:
            by_name.setdefault(self.sign(row), row)
        missing = [name for name in self.names if name not in by_name]
        if missing:
            raise ValueError(f"{len(missing)} of the {len(self.names)} fixed shots are not in it")
        return [by_name[name] for name in self.names]


@dataclass(frozen=True, kw_only=True)
class CardTask:
    """A benchmark as the card ran it. tasks/common/lighteval.py makes lighteval's config of it.

    Raises ValueError or UserError for a metric that is unknown, or that cannot score what this task asks.
    """

    name: str
    prompt: Callable[[dict[str, Any], str], Doc]  # a row and the task's name
    method: SamplingMethod  # what is asked of the model: choices to score, or a text to write
    repo: str
    subset: str
    revision: str | None  # the recipe's commit, be it a loading script's; None: it pins none
    split: str  # the one that is evaluated
    docs: int  # its rows, officially
    columns: tuple[str, ...]  # those that the prompt function reads, in every split used
    metrics: tuple[str, ...] = ("acc", "acc_norm_nospace")  # none: a judge scores the answers after the run
    scorer: Callable[[Doc, ModelResponse], Scores] | None = None  # of all metrics; None: their formulas
    ready: Callable[[], None] | None = (
        None  # tries what the scorer needs of other packages; raises what is wrong
    )
    budget: int | None = None  # tokens of an answer; None: to the window's end
    stops: tuple[str, ...] = ()
    shots: int = 0
    lettered: bool = False  # choices are shown with letters, and the letters are scored
    shot_split: str | None = None  # where the shots come from
    shot_docs: int = 0  # its rows, officially; 0: the shots come from the evaluated split
    fixed_shots: FixedShots | None = None  # the same for all docs, or for all of a group; None: drawn
    reference: Callable[[Doc], str] | None = (
        None  # the answer whose log-probability a gate asks; None: not one
    )
    follow_up: Callable[[Doc, str], Doc] | None = None  # the second turn of a first turn's doc and its answer
    keep: tuple[str, ...] = ()  # entries of a doc's ``specific`` that its samples keep as columns
    folder: str = ""  # where a folder of data keeps this task; the task's name unless told
    home: str = ""  # the task whose files in a folder of data are this one's too
    unconditioned: str | None = None  # after this, choices are scored once more, without the question

    def __post_init__(self) -> None:
        lacking = set() if self.unconditioned else {UNCONDITIONED}
        for metric in map(get_metric, self.metrics):
            of_choices = set(CHOICES) <= set(metric.inputs)
            fits = metric.formula and of_choices == self.asks_choices and not lacking & set(metric.inputs)
            if self.scorer is None and not fits:
                raise ValueError(f"'{metric.name}' cannot score '{self.name}': it needs a scorer of its own")

    @property
    def asks_choices(self) -> bool:
        """Whether choices are scored; else a text is written."""
        return self.method is SamplingMethod.LOGPROBS

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that a run needs: the evaluated one, and the few-shot one where it is another."""
        shots = self.shot_split if self.shots else None
        return (self.split,) if shots in (None, self.split) else (self.split, str(shots))

    def stem(self, split: str) -> str:
        """Where a folder of data keeps ``split``, without the ending: ``piqa/validation``, ``bbh/snarks``."""
        if self.folder:  # shared with the other subsets, each in a file of its own
            return f"{self.folder}/{self.subset}"
        return f"{self.home or self.name}/{split}"

    def smoke_stem(self, split: str) -> str:
        """Where the built-in items of ``split`` are: there are none of fixed shots, evaluated items stand in."""
        return self.stem(split if self.fixed_shots is None else self.split)


def gold_text(doc: Doc) -> str:
    """The reference answer of a task whose docs have one gold: that, as it stands in a shot."""
    assert isinstance(doc.gold_index, int)
    return doc.choices[doc.gold_index]


likelihood_task = functools.partial(CardTask, method=SamplingMethod.LOGPROBS)
"""A choice between given continuations, scored by their log-likelihood."""

generative_task = functools.partial(CardTask, method=SamplingMethod.GENERATIVE)
"""A text to write, of at most ``budget`` tokens."""
