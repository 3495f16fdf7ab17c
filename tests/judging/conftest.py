"""A run with MT-Bench answers, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.judged_runs import CATEGORIES, question, write_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    lines = [question(n, c, (f"answer {n} one", f"answer {n} two")) for n, c in enumerate(CATEGORIES)]
    return write_run(tmp_path / "results" / "tiny" / "20260101T000000Z-instruct", lines)


@pytest.fixture
def change_run(run_folder: Path) -> Callable[[list[dict[str, Any]]], Path]:
    return lambda lines: write_run(run_folder, lines)
