"""Lists the suites, their rows, and each row's tasks."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def main(args: argparse.Namespace) -> int:
    """Prints one table a suite, then the budget variants."""
    from tabulate import tabulate

    from evals.core.card import SUITES, VARIANT_SUITE, VARIANTS

    for suite in SUITES.values():
        mode = "chat template" if suite.chat else "plain prompts"
        print(f"{suite.name} ({mode})\n")
        lines = [(row.label, _names(row.tasks), row.metric) for row in suite.rows]
        print(tabulate(lines, headers=("row", "tasks", "metric"), maxcolwidths=[None, 60, None]) + "\n")
    print("variants of the budgets (--variant):")
    for name, changed in VARIANTS.items():
        what = ", ".join(f"{task}: {tokens} new tokens" for task, tokens in changed.items())
        print(f"  {name}  {what} ({VARIANT_SUITE[name]})")
    return 0


def _names(tasks: tuple[str, ...]) -> str:
    return ", ".join(tasks)
