"""Reports on real runs of the embedded model: the same weights in another dtype, and a damaged copy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reports.compare import compare_runs
from reports.runs import find_runs, load_run
from tests.support.damaged import damage

ROOT = Path(__file__).resolve().parents[2]
DOCS = 40
FEW = 6  # bfloat16 is slow on many processors

pytestmark = [pytest.mark.model, pytest.mark.data, pytest.mark.slow]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GITHUB_STEP_SUMMARY": "", "GITHUB_ACTIONS": ""}
    line = [sys.executable, str(ROOT / "run_evals.py"), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=env)


def measure(model: Path, data: Path, output: Path, dtype: str, docs: int = DOCS) -> Path:
    options = ("--suite", "base", "--tasks", "arc_easy", "--limit", docs, "--dtype", dtype)
    done = command("--model", model, "--data", data, "--output-dir", output, *options)
    assert done.returncode == 0, done.stderr
    (folder,) = find_runs(output)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, embedded_path, data_dir):
    """The embedded model in float32 and bfloat16, and its copy with noise on the weights."""
    folder = tmp_path_factory.mktemp("real")
    worse = damage(embedded_path, folder / "worse", noise=0.7)
    return {
        "float32": measure(embedded_path, data_dir, folder / "a", "float32"),
        "few float32": measure(embedded_path, data_dir, folder / "d", "float32", FEW),
        "few bfloat16": measure(embedded_path, data_dir, folder / "b", "bfloat16", FEW),
        "worse": measure(worse, data_dir, folder / "c", "float32"),
    }


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    path.write_text(f"[defaults]\nmin_n = {FEW}\n")
    return path


def test_another_dtype_is_no_regression(runs, policy):
    words = (
        "gate",
        "--baseline",
        runs["few float32"],
        "--candidate",
        runs["few bfloat16"],
        "--policy",
        policy,
    )
    refused = command(*words)
    assert refused.returncode == 2
    assert "dtype float32 against bfloat16" in refused.stderr
    allowed = command(*words, "--allow", "dtype", "--allow-inconclusive")
    assert allowed.returncode == 0, allowed.stdout
    ((row,),) = (
        one.rows
        for one in compare_runs([load_run(runs[f"few {dtype}"]) for dtype in ("float32", "bfloat16")])
    )
    assert row.difference.changed <= FEW // 3


def test_a_damaged_copy_is_a_regression(runs, policy, tmp_path):
    blessed = command("bless", runs["float32"], "--as", "good", "--baselines", tmp_path)
    assert blessed.returncode == 0, blessed.stderr
    words = (
        "--candidate",
        runs["worse"],
        "--policy",
        policy,
        "--allow",
        "quantization",
        "--baselines",
        tmp_path,
    )
    done = command("gate", "--baseline", "good", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "REGRESSION" in done.stdout


def test_reports_of_real_runs(runs, tmp_path):
    done = command("report", runs["float32"], runs["worse"], "--plot", tmp_path / "rows.svg")
    assert done.returncode == 0, done.stderr
    assert f"only the first {DOCS} docs" in done.stdout
    flips = command("compare", runs["float32"], runs["worse"], "--show-flips", 2)
    assert flips.returncode == 0, flips.stderr
    assert flips.stdout.count("Right answer:") == 2
    assert "nats" in flips.stdout
