"""What an addition costs: the guide of CONTRIBUTING.md followed on toys, in a copy of the code.

One file and one line for a benchmark, one entry for a metric, one TOML file for a card; then a run, a report, a
comparison, a gate and a leaderboard with them, through the command line. One metric is a share between 0 and 1, the
other is no share at all and better when lower.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.support.run_bench import write_jsonl
from tests.support.tiny_checkpoint import write_tiny_model

ROOT = Path(__file__).resolve().parents[1]

BENCHMARK = '''
"""Capitals: name the capital (a toy).

A row: {"country": "France", "right": "Paris", "wrong": "Rome"}
"""

from lighteval.tasks.requests import Doc

from tasks.common.builders import generative_task, likelihood_task


def choose(row: dict, task_name: str) -> Doc:
    """Two capitals, the right one first."""
    return Doc(task_name=task_name, query=f"The capital of {row['country']} is", gold_index=0,
               choices=[f" {row['right']}", f" {row['wrong']}"])


def write(row: dict, task_name: str) -> Doc:
    """The capital in words."""
    return Doc(task_name=task_name, query=f"Where is the government of {row['country']}?\\nIn",
               choices=[row["right"]], gold_index=0)


FACTS = dict(repo="toy/capitals", subset="default", revision=None, split="test", docs=12,
             columns=("country", "right", "wrong"))
CHOOSE = likelihood_task(name="capitals", prompt=choose, metrics=("acc", "gold_bits"), **FACTS)
WRITE = generative_task(name="capitals_written", prompt=write, metrics=("letter_f1",), budget=8, **FACTS)
'''
REGISTERED = """
from tasks import capitals  # noqa: E402

TASKS |= {one.name: one for one in (capitals.CHOOSE, capitals.WRITE)}
"""
METRIC = """

def _letter_f1(line: Line) -> float:
    said, gold = set(line["output"].lower()), set(line["gold"][0].lower())
    shared = len(said & gold)
    return 2 * shared / (len(said) + len(gold)) if shared else 0.0


def _gold_bits(line: Line) -> float:
    return -line["logprobs"][line["gold"]] / math.log(2) / max(1, len(line["choices"][line["gold"]].encode()))


register(Metric("letter_f1", "letters shared with the gold (F1)", "letter_f1", binary=False,
                inputs=TEXT, formula=_letter_f1))
register(Metric("gold_bits", "bits a byte of the gold", "gold_bits", binary=False, high=math.inf, unit="bits",
                digits=3, higher_is_better=False, inputs=CHOICES, formula=_gold_bits))
"""
CARD = """
name = "toy"
title = "Toy Card"
header = "Task"
prompts = "plain"
window = 512
compared = ["Somebody"]

[models."Somebody"]
source = "https://example.org/card"

[[rows]]
label = "Capitals"
tasks = ["capitals"]
metric = "acc"
docs = 12
published = { Somebody = "61.5" }

[[rows]]
label = "Capitals (bits a byte)"
tasks = ["capitals"]
metric = "gold_bits"
docs = 12
published = { Somebody = "2.125" }

[[rows]]
label = "Capitals (written)"
tasks = ["capitals_written"]
metric = "letter_f1"
docs = 12
"""
LANDS = ["France Paris Rome", "Italy Rome Oslo", "Norway Oslo Kyiv", "Japan Tokyo Lima", "Peru Lima Bern"]
LANDS += [
    "Spain Madrid Cairo",
    "Egypt Cairo Delhi",
    "India Delhi Bonn",
    "Chile Santiago Riga",
    "Cuba Havana Baku",
]
LANDS += ["Kenya Nairobi Praia", "Greece Athens Tunis"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the additions, their data, and a card of its own folder."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("evals", "tasks", "reports"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_evals.py", folder)
    (folder / "tasks" / "capitals.py").write_text(BENCHMARK)
    for path, addition in (("tasks/__init__.py", REGISTERED), ("evals/core/metric.py", METRIC)):
        (folder / path).write_text((ROOT / path).read_text() + addition)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "toy.toml").write_text(CARD)
    rows = [dict(zip(("country", "right", "wrong"), land.split(), strict=True)) for land in LANDS]
    for task in ("capitals", "capitals_written"):
        write_jsonl(folder / "data" / task / "test.jsonl", rows)
    weights = write_tiny_model(folder / "models" / "model-1", 1) / "model.safetensors"
    shutil.copytree(folder / "models" / "model-1", folder / "models" / "model-2")
    overconfident = {
        name: 6 * tensor if "embed" in name else tensor for name, tensor in load_file(weights).items()
    }
    save_file(overconfident, folder / "models" / "model-2" / "model.safetensors", {"format": "pt"})
    return folder


def command(house: Path, *words: str | Path, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(house), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "run_evals.py", *map(str, words)]
    done = subprocess.run(line, cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(house: Path) -> list[Path]:
    printed = command(
        house, "--model", "models/model-1", "--model", "models/model-2", "--suite", "elsewhere/toy.toml",
        "--data", "data", "--output-dir", "results", "--device", "cpu", "--dtype", "float32",
    )  # fmt: skip
    found = sorted(path.parent for path in (house / "results").glob("*/*/run.json"))
    assert len(found) == 2
    assert "Capitals (bits a byte)" in printed
    return found


def test_the_run_carries_the_card_and_every_metric(runs: list[Path]) -> None:
    log = json.loads((runs[0] / "run.json").read_text())
    assert (log["suite"], log["card"]["title"]) == ("toy", "Toy Card")
    assert set(log["tasks"]["capitals"]["metrics"]) == {"acc", "gold_bits"}
    values = {row["label"]: row["value"] for row in log["rows"]}
    assert values["Capitals (bits a byte)"] > 1
    assert 0 < values["Capitals (written)"] < 100


def test_report_compare_and_leaderboard_show_it(house: Path, runs: list[Path]) -> None:
    cells = json.loads(command(house, "report", *runs, "--format", "json"))[0]["cells"]
    published = {cell["row"]: cell["value"] for cell in cells if cell["column"] == "Somebody"}
    assert published == {"Capitals": 61.5, "Capitals (bits a byte)": 2.125, "Capitals (written)": None}
    compared = json.loads(command(house, "compare", *runs, "--format", "json"))["rows"]
    bits = next(row for row in compared if row["label"] == "Capitals (bits a byte)")
    assert bits["difference"]["value"] == pytest.approx(bits["second"] - bits["first"])
    command(house, "leaderboard", "results")
    lines = list(csv.DictReader((house / "results" / "leaderboard" / "leaderboard.csv").open()))
    assert {"model-1", "model-2"} <= {value for line in lines for value in line.values()}


def test_the_gate_knows_which_way_is_worse(house: Path, runs: list[Path]) -> None:
    bits = {
        run: next(
            row["value"]
            for row in json.loads((run / "run.json").read_text())["rows"]
            if "bits" in row["label"]
        )
        for run in runs
    }
    better, worse = sorted(runs, key=bits.__getitem__)
    policy = house / "policy.toml"
    policy.write_text(
        '[defaults]\ntier = "advisory"\n[rows."Capitals (bits a byte)"]\ntier = "critical"\nmax_drop = 0.0\nmin_n = 5\n'
    )
    command(house, "bless", better, "--as", "good")
    words = ("gate", "--baseline", "good", "--policy", policy)
    assert "PASS" in command(house, *words, "--candidate", better)
    assert "REGRESSION" in command(house, *words, "--candidate", worse, code=1)


def test_an_unknown_metric_is_an_error_when_the_card_is_read(house: Path) -> None:
    (house / "elsewhere" / "bad.toml").write_text(
        CARD.replace('"gold_bits"', '"gold_bit"').replace('"toy"', '"bad"')
    )
    line = [
        sys.executable,
        "run_evals.py",
        "--model",
        "models/model-1",
        "--suite",
        "elsewhere/bad.toml",
        "--data",
        "data",
    ]
    done = subprocess.run(line, cwd=house, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "rows.1.metric" in done.stderr
    assert "did you mean 'gold_bits'?" in done.stderr
