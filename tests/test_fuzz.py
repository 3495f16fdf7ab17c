"""A small helping of the fuzz command: what others wrote gives a result or a documented error, never a crash."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.forks import ROOT


def test_hostile_inputs_break_nothing() -> None:
    command = [sys.executable, "tests/benchmarks/fuzz.py", "--inputs", "2000", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    parts = set(re.findall(r"^([A-Za-z. ]+?) {2,}.*(?:passed|one line)", done.stdout, re.MULTILINE))
    assert {"data rows", "outputs", "GGUF headers", "safetensors headers", "run.json", "parquet"} <= parts
