"""Runs and gates for the gate's tests: two rows of two thousand docs, of which some changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evals.commands import gate as gate_command
from reports.gate.policy import Policy
from reports.gate.whole import gate
from reports.runs import load_run
from tests.support.made_runs import Made, build
from tests.support.words import parse

BASE = ([1] * 45 + [0] * 55) * 20
CI_VARIABLES = ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ACTIONS")


def run_with(folder: Path, **options: Any) -> Path:
    """A run of HellaSwag and PIQA, 900 of 2000 docs right, in a folder of its own."""
    options = {"labels": ("HellaSwag", "PIQA"), "scores": {"hellaswag": BASE, "piqa": BASE}, **options}
    return build(folder / str(len(list(folder.iterdir()))), Made(**options))


def changed(worse: int, better: int = 0) -> list[int]:
    """BASE with so many docs that turned wrong, and right."""
    scores = np.array(BASE)
    ones, zeros = np.flatnonzero(scores == 1)[:worse], np.flatnonzero(scores == 0)[:better]
    scores[ones], scores[zeros] = 0, 1
    return scores.tolist()


def run_gate(*words: object) -> int:
    """The command's exit code; accuracy alone counts unless the words say otherwise."""
    given = [str(word) for word in words]
    given += ["--evidence", "accuracy"] * ("--evidence" not in given)
    return gate_command.main(parse(gate_command.Options, given))


def verdicts(baseline: Path, candidate: Path, policy: Policy | None = None) -> dict[str, str]:
    """{row: verdict} by accuracy alone, without the mean of all rows."""
    result = gate(load_run(baseline), load_run(candidate), policy or Policy(), finer=False)
    return {row.label: row.verdict for row in result.rows[:-1]}
