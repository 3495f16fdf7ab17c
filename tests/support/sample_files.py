"""The samples that runs wrote, compared as runs on different numbers of workers must compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

NATS = 1e-4  # float32 on a CPU: sums in another order


def read_samples(output: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by "suite task" of all runs in an output folder."""
    found = {}
    for file in output.glob("*/*/samples/*.parquet"):
        suite = file.parent.parent.name.split("-")[1]
        found[f"{suite} {file.stem}"] = pq.read_table(file).to_pylist()
    assert found, f"no run in {output}"
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Every column equal, log-probabilities within NATS."""
    assert one.keys() == other.keys()
    for name, rows in one.items():
        for row, twin in zip(rows, other[name], strict=True):
            assert row.keys() == twin.keys()
            for column, value in row.items():
                if column == "logprobs":
                    np.testing.assert_allclose(value, twin[column], atol=NATS, rtol=0, err_msg=name)
                else:
                    assert value == twin[column], f"{name}: {column}"
