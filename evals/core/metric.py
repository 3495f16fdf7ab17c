"""Every score that a row can show: one entry a metric, with all that anything else needs to know of it.

A newcomer adds a metric as one entry here. An entry says which sample columns hold its values, how they are averaged
and shown, and (`formula`) how a doc is scored, so that a report can score the samples again without a model.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evals.core.errors import UserError, nearest

Line = Mapping[str, Any]
"""One doc of a sample file: {column: value}, as results/README.md lists the columns."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FINAL_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")


@dataclass(frozen=True)
class Metric:
    """What a score is. Values of one doc lie in [`low`, `high`]; `binary`: each is one of the two.

    `column`: the sample column that holds it; a metric of `parts` has none: it is the plain mean of these metrics.
    `shape`: "doc", one value a doc; "items", a list a doc (an instruction, a turn), all items counting alike.
    `average`: "docs", or "groups": the plain mean over the docs' groups of each group's mean.
    `unit`: "percent" shows a fraction times 100; any other word shows the value as it is. `digits`: decimals shown.
    `judged`: a judge gives it after the run; until then a row has answers and no value.
    `margin`: what two points of percent are to this metric, in its shown unit (reports/margins.py). `agreement`: how
    alike two right implementations answer the same docs (correlation of the docs' scores): on the cautious side;
    likelihoods of the same weights in float32 and bfloat16 agreed to 0.97 (PIQA, 900 docs), texts drift apart sooner.
    `formula` scores a doc by its `inputs`, columns of the same sample file; None: it cannot be scored again from them.
    `ranking` gives each choice of a doc a value, of which the first of the greatest is the prediction.
    """

    name: str
    words: str
    column: str = ""
    parts: tuple[str, ...] = ()
    shape: Literal["doc", "items"] = "doc"
    average: Literal["docs", "groups"] = "docs"
    low: float = 0.0
    high: float = 1.0
    binary: bool = True
    unit: str = "percent"
    digits: int = 1
    higher_is_better: bool = True
    judged: bool = False
    margin: float = 2.0
    agreement: float = 0.7
    inputs: tuple[str, ...] = ()
    formula: Callable[[Line], float] | None = None
    ranking: Callable[[Line], Sequence[float]] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The sample columns that it is computed from."""
        own = (self.column,) if self.column else ()
        return own + tuple(name for part in self.parts for name in METRICS[part].columns)

    @property
    def scale(self) -> float:
        """What turns a value into the shown unit."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def reach(self) -> float:
        """How far one doc's score can fall, in the shown unit."""
        return (self.high - self.low) * self.scale

    @property
    def in_percent(self) -> bool:
        """Whether rows of it can be averaged with other rows in percent."""
        return self.unit == "percent" and self.higher_is_better

    @property
    def unit_words(self) -> str:
        """The unit for an axis or a column: "percent", "rating 1 to 10", "bits, lower is better"."""
        bounded = self.unit != "percent" and math.isfinite(self.low) and math.isfinite(self.high)
        words = f"{self.unit} {self.low:g} to {self.high:g}" if bounded else self.unit
        return words if self.higher_is_better else f"{words}, lower is better"

    def doc_value(self, line: Line) -> float | None:
        """A doc's own value: of parts, that of the first; of items, their mean, None where there is no item."""
        if self.parts:
            return METRICS[self.parts[0]].doc_value(line)
        value = line[self.column]
        if self.shape == "items":
            return sum(value) / len(value) if value else None
        return float(value)

    def loss(self, before: float, after: float) -> float:
        """By how much `after` is worse than `before`; negative when it is better."""
        return before - after if self.higher_is_better else after - before

    def valid(self, value: object) -> bool:
        """Whether `value` can be a doc's value in one of its columns."""
        if self.shape == "items":
            return isinstance(value, list) and all(map(self._in_range, value))
        return self._in_range(value)

    def _in_range(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return value in (self.low, self.high) if self.binary else self.low <= value <= self.high


# --- formulas -------------------------------------------------------------------------------------


def choice_length(choice: str) -> int:
    """Characters of a choice, one leading space left out; at least 1, since it is divided by."""
    return max(1, len(choice) - choice.startswith(" "))


def first_best(scores: Sequence[float]) -> int:
    """The position of the greatest score; the first of equal ones."""
    return max(range(len(scores)), key=scores.__getitem__)


def predict(choices: Sequence[str], logprobs: Sequence[float]) -> int:
    """The choice with the greatest log-likelihood a character: ``logprobs`` [n_choices] nats."""
    return first_best(_each(logprobs, map(choice_length, choices)))


def _each(logprobs: Sequence[float], lengths: Iterable[int]) -> list[float]:
    return [s / n for s, n in zip(logprobs, lengths, strict=True)]


def plain_words(text: str) -> str:
    """``text`` in lower case without ASCII punctuation."""
    return text.lower().translate(_PUNCTUATION)


def final_answer(text: str) -> str | None:
    """The number after the first ``#### ``, commas removed; None when there is none."""
    match = _FINAL_ANSWER.search(text)
    return match.group(1).replace(",", "") if match else None


def alias_match(golds: Sequence[str], output: str) -> int:
    """1 when the output, stripped and made plain, is one of the plain ``golds``; an empty one is wrong."""
    answer = output.strip()
    return int(bool(answer) and plain_words(answer) in golds)


def final_answer_match(gold: str, output: str) -> int:
    """1 when the output's final answer is written like the gold's; no answer is wrong, whatever the gold."""
    answer = final_answer(output)
    return int(answer is not None and answer == final_answer(gold))


def exact_match(gold: str, output: str) -> int:
    """1 when output and gold are equal after stripping white space; an empty output is wrong."""
    answer = output.strip()
    return int(bool(answer) and answer == gold.strip())


# --- the registry ---------------------------------------------------------------------------------

METRICS: dict[str, Metric] = {}
CHOICES = ("choices", "logprobs", "gold")
UNCONDITIONED = "logprobs_unconditioned"
"""The column of the choices' log-likelihoods without the question: asked for where a task says after which text."""
TEXT = ("output", "gold")


def register(entry: Metric) -> Metric:
    """Makes a metric known by its name. Raises ValueError for a name that is taken by another."""
    if METRICS.setdefault(entry.name, entry) != entry:
        raise ValueError(f"two metrics of the name '{entry.name}'")
    return entry


def get_metric(name: str) -> Metric:
    """The metric of that name. Raises UserError when there is none."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name[:60]}': {nearest(name, list(METRICS))}")
    return METRICS[name]


def of_columns(columns: Mapping[str, Sequence[Any]]) -> list[Metric]:
    """The metrics that these sample columns hold (group averages where every doc has a group)."""
    groups = columns.get("group")
    grouped = groups is not None and len(groups) > 0 and all(group is not None for group in groups)
    return [
        metric
        for metric in METRICS.values()
        if all(name in columns for name in metric.columns) and (metric.average == "docs" or grouped)
    ]


def _choices(name: str, words: str, ranking: Callable[[Line], Sequence[float]], *more: str) -> None:
    """The share of docs whose gold choice `ranking` puts first; it reads the columns CHOICES and `more`."""

    def formula(line: Line) -> float:
        return int(first_best(ranking(line)) == line["gold"])

    inputs = (*CHOICES, *more)
    register(Metric(name, words, name, agreement=0.9, inputs=inputs, formula=formula, ranking=ranking))
    macro = f"{words}, mean of the groups (macro)"
    register(Metric(f"{name}_macro", macro, name, average="groups", agreement=0.9))


def _text(name: str, words: str, match: Callable[[Any, str], int], aliases: bool = False) -> None:
    def formula(line: Line) -> float:
        return match(line["gold"] if aliases else line["gold"][0], line["output"])

    register(Metric(name, words, name, inputs=TEXT, formula=formula))


_choices("acc", "the gold choice is the likeliest", lambda line: line["logprobs"])
_choices(
    "acc_norm_nospace", "the gold choice is the likeliest a character",
    lambda line: _each(line["logprobs"], map(choice_length, line["choices"])),
)  # fmt: skip
_choices(
    "acc_per_char", "the gold choice is the likeliest a character, its space counted",
    lambda line: _each(line["logprobs"], (max(1, len(choice)) for choice in line["choices"])),
)  # fmt: skip
_choices(
    "acc_per_token", "the gold choice is the likeliest a token",
    lambda line: _each(line["logprobs"], line["n_tokens"]), "n_tokens",
)  # fmt: skip
_choices(
    "acc_pmi", "the gold choice gains most by the question (pointwise mutual information)",
    lambda line: [s - u for s, u in zip(line["logprobs"], line[UNCONDITIONED], strict=True)], UNCONDITIONED,
)  # fmt: skip
_text("alias_match", "the answer is one of the gold's aliases", alias_match, aliases=True)
_text("final_answer_match", "the number after #### is the gold's", final_answer_match)
_text("exact_match", "the answer is the gold's text", exact_match)
for _rule in ("strict", "loose"):
    _prompt, _items = f"prompt_level_{_rule}_acc", f"inst_level_{_rule}_acc"
    register(Metric(_prompt, f"prompts with every instruction followed, {_rule}", _prompt))
    register(Metric(_items, f"instructions followed, {_rule}", _items, shape="items"))
for _name, _rule in (("ifeval", "strict"), ("ifeval_loose", "loose")):
    register(
        Metric(
            _name,
            f"mean of prompt and instruction level, {_rule}",
            parts=(f"prompt_level_{_rule}_acc", f"inst_level_{_rule}_acc"),
            binary=False,
        )
    )
for _name, _words, _binary in (
    ("foreign_right", "right or wrong, as another harness says", True),
    ("foreign_score", "another harness's score from 0 to 1", False),
):
    register(Metric(_name, _words, _name, binary=_binary))
register(
    Metric(
        "judge_score", "a judge's rating of an answer", "judge_score",
        shape="items", low=1.0, high=10.0, binary=False, unit="rating", digits=2, judged=True, margin=0.2,
    )
)  # fmt: skip
