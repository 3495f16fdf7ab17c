"""Lists the cards: each row's tasks, docs, worked examples (shots), budget of an answer, data set and metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from evals.commands.options import Asked as Options
from evals.core.card import Card, Row, all_cards

if TYPE_CHECKING:
    from tasks.common.builders import CardTask

HEADER = ("row", "tasks", "docs", "shots", "new tokens", "data", "metric")
WIDTHS = [None, 44, None, None, None, 34, None]


def main(options: Options) -> int:
    """Prints one table a card, then the budget variants."""
    from tabulate import tabulate

    for card in all_cards():
        mode = "chat template" if card.chat else "plain prompts"
        print(f"{card.name}: {card.title} ({mode}, window of {card.window:,} tokens)\n")
        print(tabulate(map(facts, card.rows), HEADER, maxcolwidths=WIDTHS, disable_numparse=True) + "\n")
    print(
        "docs: questions. shots: worked examples before each. new tokens: of an answer, at most; -: choices are scored"
    )
    print("variants of the budgets (--variant):")
    for card in all_cards():
        for name, changed in card.variants.items():
            what = ", ".join(f"{task}: {tokens} new tokens" for task, tokens in changed.items())
            print(f"  {name}  {what} ({card.name})")
    return 0


def facts(row: Row) -> tuple[str, ...]:
    """A row's line: what differs among its tasks stands once for each."""
    from tasks import get_task

    tasks = [get_task(name) for name in row.tasks]
    few = len(tasks) <= 3
    docs = " + ".join(f"{task.docs:,}" for task in tasks) if few else f"{sum(task.docs for task in tasks):,}"
    names = ", ".join(row.tasks) if few else f"{len(tasks)} tasks: {', '.join(row.tasks)}"
    return (
        row.label,
        names,
        docs,
        _each(str(task.shots) for task in tasks),
        _each(map(_budget, tasks)),
        _each(f"{task.repo}, {task.split}" for task in tasks),
        row.metric,
    )


def protocol(card: Card, row: Row) -> dict[str, str]:
    """How a card asks a row, a fact a key; `benchmark` is what rows of several cards have in common.

    Of a task that is not one of these (a card of an older or newer program), its name alone.
    """
    from tasks import TASKS

    known = [TASKS[name] for name in row.tasks if name in TASKS]
    named = ", ".join(row.tasks) if len(row.tasks) <= 3 else f"{len(row.tasks)} tasks, {row.tasks[0]} …"
    if len(known) < len(row.tasks):
        return {"benchmark": named, "task": f"prompts of {named}"}
    return {
        "benchmark": known[0].repo,
        "shots": _each(
            f"{task.shots} shots" + ", the same for all" * bool(task.fixed_shots) for task in known
        ),
        "formulation": _each(map(_formulation, known)),
        "prompts": "in the chat template" if card.chat else "plain prompts",
        "metric": f"{row.metric} ({row.of.words})",
        "split": f"{_each(f'{task.split} split' for task in known)}, {row.docs:,} docs",
        "window": f"window of {card.window:,} tokens",
        "task": f"prompts of {named}",
    }


def _formulation(task: CardTask) -> str:
    if task.asks_choices:
        return "lettered choices" if task.lettered else "completions (cloze)"
    return f"a text of up to {_budget(task)} new tokens" if task.budget else "a text up to the window's end"


def _each(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(texts))


def _budget(task: CardTask) -> str:
    if task.asks_choices:
        return "-"
    return "window" if task.budget is None else f"{task.budget:,}"
