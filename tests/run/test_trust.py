"""Runs that meet hostile names, models, templates and data; and runs without a network."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import ROOT
from tests.support.run_bench import ALL, PIQA, Bench, change_weight, computed, write_jsonl


@pytest.mark.parametrize(
    ("row", "about"),
    [
        ({"goal": "g", "sol1": "a", "sol2": "b", "label": 2}, "row 8: 'label' is 2, out of range"),
        ({"goal": "g", "sol1": "a", "label": 0}, "no column sol2"),
        ({"goal": "", "sol1": "a", "sol2": "b", "label": 0}, "row 8: 'goal' is empty"),
        ({"goal": ["g"], "sol1": "a", "sol2": "b", "label": 0}, "row 8: 'goal' is not text"),
    ],
)
def test_data_is_checked_before_a_model_is_loaded(bench: Bench, row: dict[str, Any], about: str) -> None:
    write_jsonl(bench.data / "piqa" / "validation.jsonl", [*PIQA, row])
    assert about in bench.fails("--limit", "1")
    assert "loading" not in bench.log.read_text()


def test_data_that_is_not_what_its_list_says_is_refused(bench: Bench) -> None:
    sources = [{"file": "piqa/validation.jsonl", "sha256": "0" * 64}]
    (bench.data / "SOURCES.json").write_text(json.dumps(sources))
    assert "changed or damaged" in bench.fails()
    assert "loading" not in bench.log.read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("task", ["piqa", "gsm8k"])
def test_scores_that_are_no_numbers_stop_the_run_and_name_the_doc(
    bench: Bench, tmp_path: Path, value: float, task: str
) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "broken"))
    change_weight(bench.model, value)
    line = bench.fails("--tasks", task)
    assert f"task '{task}', doc" in line
    assert bench.folders() == []
    with sqlite3.connect(bench.output / ".cache" / "requests.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/etc/x",
        "a/../../b",
        "~",
        "x" * 300,
        "a\nb",
        "-",
        "a\\..\\b",
        "$(touch x)",
        "\u202egnp",
        " ",
    ],
)
def test_a_hostile_name_stays_in_the_output_folder(bench: Bench, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    arguments = bench.arguments("--limit", "1", "--tasks", "piqa")
    arguments[arguments.index("--model") + 1] = name
    if name.startswith("-"):
        arguments[:2] = [f"--model={name}"]
    code = bench.forks.run(arguments, bench.log)
    text = bench.log.read_text()
    assert code in (0, 2), text
    assert "Traceback" not in text
    assert "unexpected" not in text
    outside = [path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(bench.output)]
    assert set(outside) <= {bench.log, bench.output}


def test_a_hostile_file_name_of_a_model_stays_in_the_output_folder(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "..." / "; rm -rf x"))
    arguments = bench.arguments("--limit", "1", "--tasks", "piqa")
    arguments[:4] = ["--model", str(bench.model)]
    assert bench.forks.run(arguments, bench.log) == 0, bench.log.read_text()
    assert len(bench.folders()) == 1


def test_a_chat_template_cannot_reach_python(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "broken"))
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    for file in bench.model.glob("chat_template*"):
        file.unlink()
    (bench.model / "chat_template.jinja").write_text(hostile)
    line = bench.fails("--suite", "instruct", "--tasks", "piqa")
    assert "template" in line


def test_pickled_weights_are_refused(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "pickle"))
    (bench.model / "model.safetensors").rename(bench.model / "pytorch_model.bin")
    assert "pickle" in bench.fails()


def test_code_that_comes_with_a_model_is_not_run_and_said_so(bench: Bench, tmp_path: Path) -> None:
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "code"))
    config = json.loads((bench.model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (bench.model / "config.json").write_text(json.dumps(config))
    trace = tmp_path / "trace"
    (bench.model / "modeling.py").write_text(f"open({str(trace)!r}, 'w')\nclass Model: pass\n")
    bench.run("--limit", "1")
    assert "not run" in bench.log.read_text()
    config["model_type"] = "unheard-of"
    (bench.model / "config.json").write_text(json.dumps(config))
    assert "not run" in bench.fails()
    assert not trace.exists()


def test_a_token_is_never_written(bench: Bench, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    secret = "hf_" + "Secret" * 5
    code = bench.forks.run(bench.arguments(), bench.log, "tests.support.run_bench:with_secret", secret)
    assert code == 0, bench.log.read_text()
    for file in [bench.log, *bench.output.rglob("*")]:
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file


def test_offline_reaches_for_no_network(bench: Bench) -> None:
    bench.hook = ("tests.support.run_bench:no_network",)
    assert computed(bench.run("--offline")) == ALL
    bench.data = Path("hub")
    assert "network:" not in bench.fails("--offline")


@pytest.mark.slow
def test_offline_runs_without_a_network(bench: Bench) -> None:
    """A namespace without interfaces: nothing could go out, whoever tried."""
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"network namespaces need rights that this account lacks: {probe.stderr.strip()}")
    command = [
        "unshare",
        "-n",
        sys.executable,
        "run_evals.py",
        *bench.arguments("--offline", "--tasks", "piqa"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(bench.folders()) == 1
    command[command.index("--data") + 1] = "hub"
    for given in (command, [word for word in command if word != "--offline"]):
        done = subprocess.run(
            given,
            cwd=ROOT,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
