"""The card as data: which rows its two tables have, and which tasks and metrics make a row.

A newcomer adds a card as one `Suite` of `Row`s. Nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from evals.core.errors import UserError

BBH_SUBSETS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)


@dataclass(frozen=True)
class Row:
    """One row of a card's table: the plain mean of `metric` over `tasks`, in percent (MT-Bench: 1 to 10)."""

    label: str
    tasks: tuple[str, ...]
    metric: str


@dataclass(frozen=True)
class Suite:
    """One table of a card. `chat`: its models answer in their chat template."""

    name: str
    chat: bool
    rows: tuple[Row, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The suite's task names, in row order."""
        return tuple(task for row in self.rows for task in row.tasks)


NORMALISED = "acc_norm_nospace"
HELLASWAG = Row("HellaSwag", ("hellaswag",), NORMALISED)
ARC = Row("ARC (Average)", ("arc_easy", "arc_challenge"), NORMALISED)
PIQA = Row("PIQA", ("piqa",), NORMALISED)
MMLU = Row("MMLU (cloze)", ("mmlu",), NORMALISED)
GSM8K = Row("GSM8K (5-shot)", ("gsm8k",), "final_answer_match")

BASE = Suite(
    "base",
    chat=False,
    rows=(
        HELLASWAG,
        ARC,
        PIQA,
        MMLU,
        Row("CommonsenseQA", ("commonsense_qa",), NORMALISED),
        Row("TriviaQA", ("trivia_qa",), "alias_match"),
        Row("Winogrande", ("winogrande",), NORMALISED),
        Row("OpenBookQA", ("openbook_qa",), NORMALISED),
        GSM8K,
    ),
)
INSTRUCT = Suite(
    "instruct",
    chat=True,
    rows=(
        # "ifeval" is the mean of prompt-level and instruction-level strict accuracy
        Row("IFEval (Average prompt/inst)", ("ifeval",), "ifeval"),
        Row("MT-Bench", ("mt_bench",), "judge_score"),
        HELLASWAG,
        ARC,
        PIQA,
        MMLU,
        Row("BBH (3-shot)", tuple(f"bbh_{subset}" for subset in BBH_SUBSETS), "exact_match"),
        GSM8K,
    ),
)
SUITES = {suite.name: suite for suite in (BASE, INSTRUCT)}

# The recipe's pinned harness had fixed a bug that the card's own runs may have had (every generative task got the
# first one's budget): these budgets, in new tokens, are the other candidates.
VARIANTS: dict[str, dict[str, int]] = {"trivia_qa-256": {"trivia_qa": 256}, "gsm8k-1280": {"gsm8k": 1280}}
VARIANT_SUITE = {"trivia_qa-256": "base", "gsm8k-1280": "instruct"}


def nearest(name: str, known: list[str]) -> str:
    """A hint such as "; did you mean 'piqa'?", or the whole list when nothing is near."""
    lower = {item.lower(): item for item in reversed(known)}  # of equal ones, the first
    near = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f"'{lower[item]}'" for item in near) + "?"
    return "known: " + ", ".join(known)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def select_rows(suite: Suite, wanted: list[str] | None) -> tuple[Row, ...]:
    """The suite's rows, cut down to the wanted tasks or rows, in the card's order.

    A name is a task ("arc_easy"), a row's label ("ARC (Average)"), or the label's first words ("arc", "bbh", "mmlu").
    """
    if not wanted:
        return suite.rows
    chosen: dict[str, set[str]] = {}
    for name in wanted:
        for row, tasks in _matches(suite, name):
            chosen.setdefault(row.label, set()).update(tasks)
    return tuple(
        Row(row.label, tuple(task for task in row.tasks if task in chosen[row.label]), row.metric)
        for row in suite.rows
        if row.label in chosen
    )


def _matches(suite: Suite, name: str) -> list[tuple[Row, tuple[str, ...]]]:
    for row in suite.rows:
        if name in row.tasks:
            return [(row, (name,))]
    slug = _slug(name)
    for row in suite.rows:
        if slug and slug in (_slug(row.label), _slug(row.label.split("(")[0])):
            return [(row, row.tasks)]
    return []


def check_names(suites: list[Suite], wanted: list[str] | None) -> None:
    """Refuses a task or row name that none of the suites has."""
    for name in wanted or []:
        if not any(_matches(suite, name) for suite in suites):
            known = [item for suite in suites for row in suite.rows for item in (*row.tasks, row.label)]
            elsewhere = [suite.name for suite in SUITES.values() if _matches(suite, name)]
            if elsewhere:
                raise UserError(
                    f"the suite '{suites[0].name}' has no task '{name}': it belongs to --suite {elsewhere[0]}"
                )
            raise UserError(f"unknown task '{name}' in --tasks: {nearest(name, list(dict.fromkeys(known)))}")


def budgets(variants: list[str], suite: Suite) -> dict[str, int]:
    """New-token budgets that the named variants change for this suite: {task: tokens}."""
    changed: dict[str, int] = {}
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f"unknown variant '{name}' in --variant: {nearest(name, list(VARIANTS))}")
        if VARIANT_SUITE[name] == suite.name:
            changed.update(VARIANTS[name])
    return changed
