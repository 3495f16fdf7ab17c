"""Lists the cards: each row's tasks, docs, worked examples (shots), budget of an answer, data set and metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from evals.commands.options import Asked as Options
from evals.core.card import Row, all_cards

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


def _each(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(texts))


def _budget(task: CardTask) -> str:
    if task.asks_choices:
        return "-"
    return "window" if task.budget is None else f"{task.budget:,}"
