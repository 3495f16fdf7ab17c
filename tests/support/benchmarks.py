"""The card's benchmarks as repos on the stand-in hub, laid out as the real ones are, small."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import TASKS
from tasks.common.builders import CardTask
from tests.support.hub_standin import StandInHub

SMOKE = Path(__file__).resolve().parents[2] / "tasks" / "smoke"
SCRIPTS = (
    "allenai/winogrande",
    "ybisk/piqa",
    "lighteval/big_bench_hard",
    "google/IFEval",
)  # no parquet at the pin
CODE = b"raise SystemExit('a script of the hub was run')"


def parquet_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def piqa_rows(n: int) -> list[dict[str, Any]]:
    """As many made-up rows as the official split has, or fewer."""
    return [{"goal": f"Count to {i}", "sol1": f"say {i}", "sol2": "sleep", "label": 0} for i in range(n)]


def smoke_items(task: CardTask, split: str) -> list[dict[str, Any]]:
    """The built-in items of a task's split."""
    lines = (SMOKE / f"{task.smoke_stem(split)}.jsonl").read_text("utf-8").split("\n")
    assert lines.pop() == ""  # the file ends with a line's end
    return [json.loads(line) for line in lines]


def add_benchmarks(hub: StandInHub) -> None:
    """Every task's smoke items on the hub; PIQA whole, from a copy in another repo, as its own has no conversion."""
    pinned: dict[tuple[str, str], dict[str, bytes]] = {}
    converted: dict[str, dict[str, bytes]] = {}
    for task in TASKS.values():
        files = pinned.setdefault((task.repo, task.revision or "main"), {"README.md": b"card"})
        for split in task.splits:
            content = parquet_bytes(smoke_items(task, split))
            if task.repo in SCRIPTS:
                files["script.py"] = CODE
                converted.setdefault(task.repo, {})[f"{task.subset}/{split}/0000.parquet"] = content
            else:
                folder = "data" if task.subset == "default" else task.subset
                files[f"{folder}/{split}-00000-of-00001.parquet"] = content
    for (repo, revision), files in pinned.items():
        hub.add(f"datasets/{repo}", files, revision, licence="mit")
    del converted["ybisk/piqa"]
    for repo, files in converted.items():
        hub.add(f"datasets/{repo}", files, "refs/convert/parquet")
    splits = {"validation": piqa_rows(1838), "train": piqa_rows(9)}
    hub.add(
        "datasets/baber/piqa", {f"piqa_{name}.parquet": parquet_bytes(rows) for name, rows in splits.items()}
    )
