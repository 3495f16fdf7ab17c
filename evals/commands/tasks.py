"""Lists the cards, their rows, and each row's tasks."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def main(args: argparse.Namespace) -> int:
    """Prints one table a card, then the budget variants."""
    from tabulate import tabulate

    from evals.core.card import all_cards

    for card in all_cards():
        mode = "chat template" if card.chat else "plain prompts"
        print(f"{card.name}: {card.title} ({mode})\n")
        lines = [(row.label, ", ".join(row.tasks), row.metric) for row in card.rows]
        print(tabulate(lines, headers=("row", "tasks", "metric"), maxcolwidths=[None, 60, None]) + "\n")
    print("variants of the budgets (--variant):")
    for card in all_cards():
        for name, changed in card.variants.items():
            what = ", ".join(f"{task}: {tokens} new tokens" for task, tokens in changed.items())
            print(f"  {name}  {what} ({card.name})")
    return 0
