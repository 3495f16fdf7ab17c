"""Rows of data that others wrote."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.run_bench import PIQA, write_jsonl
from tests.tools.attacks.stage import Stage, attack

ROWS = "data/test_hostile_rows.py"
ONE_LINE = "one line that names the row"


@attack("data")
def ten_megabytes(stage: Stage) -> str:
    """a text of 10 MB through a whole run"""
    bench = stage.bench()
    rows = [*PIQA, {"goal": "ten megabytes " * (10 * 2**20 // 14), "sol1": "a", "sol2": "b", "label": 0}]
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    ended = stage.run(bench.arguments("--tasks", "piqa"), *bench.hook, seconds=300)
    if ended.code:
        return ended.refused()
    record = _record(bench.folders())
    peak = record["provenance"]["peak_memory_bytes"]["host"]
    return f"scored by its end (the window), {ended.seconds:.0f} s, {peak / 2**30:.1f} GiB at most"


@attack("data", quick=True)
def thousand_choices(stage: Stage) -> str:
    """1,000 choices, all equal, through a whole run"""
    bench = stage.bench()
    row = {"question": "Which?", "subject": "anatomy", "choices": ["same"] * 1000, "answer": 7}
    write_jsonl(bench.data / "mmlu" / "test.jsonl", [row])
    ended = stage.run(bench.arguments("--tasks", "mmlu"), *bench.hook)
    assert ended.code in (0, 3), ended.text[-500:]
    (task,) = _record(bench.folders())["tasks"].values()
    values = {name: metric["value"] for name, metric in task["metrics"].items()}
    assert set(values.values()) <= {0}, f"a doc whose choices are all equal is scored {values}"
    return "scored: the first of equal choices is taken, which is wrong here"


def _record(folders: list[Path]) -> dict:
    (folder,) = folders
    return json.loads((folder / "run.json").read_text())
