"""Options: none is dropped, in any pair; what a command line comes to."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals import cli
from evals.cli import main
from tests.tools import option_pairs
from tests.tools.option_pairs import DROPPED, REFUSED, USED, commands, outcomes, places

ROOT = Path(__file__).resolve().parents[2]


def options(*argv: str) -> Any:
    _, found = cli.parse(list(argv))
    found.check()
    return found


def test_every_pair_of_options_is_used_or_refused_in_one_line(capsys):
    with places() as folder:
        for command in commands(folder):
            found = list(outcomes(command))
            assert [one for one in found if one.verdict == DROPPED] == []
            assert {USED} <= {one.verdict for one in found}
            refused = [one for one in found if one.verdict == REFUSED]
            of_each = {re.sub(r"'.*?'", "", one.line): one for one in refused}
            situations = {one.name: one for one in command.situations}
            for one in of_each.values():  # one pair for each kind of line, through the whole command
                assert main(option_pairs.line(command, situations[one.situation], one.one, one.two)) == 2
                assert capsys.readouterr() == ("", f"error: {one.line}\n")


def test_the_table_notices_an_option_that_is_dropped(monkeypatch):
    monkeypatch.setattr("evals.commands.run_options.Options.check", lambda options: options.resolve())
    with places() as folder:
        command = option_pairs.run_command(folder)
        command = replace(command, situations=command.situations[1::3])
        dropped = {one.line for one in outcomes(command) if one.verdict == DROPPED}
    assert {
        "--parallel",
        "--timeout",
        "--tokenizer",
        "--base-url",
        "--device",
        "--engine",
        "--variant",
    } <= dropped


def test_pairs_are_tried_without_torch():
    code = (
        "import sys\nsys.argv = ['option_pairs.py', 'report', 'judge', 'prompts', 'snapshot']\n"
        "from tests.tools.option_pairs import main, places, run_command, read\n"
        "assert main() == 0\n"
        "with places() as folder:\n"
        "    command = run_command(folder)\n"
        "    for situation in command.situations:\n"
        "        read(command, situation)\n"
        "heavy = {'torch', 'transformers', 'lighteval', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "0 with an option dropped" in done.stdout


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_weights_that_are_named_alone_are_the_ones_measured(tmp_path, kind):
    path = tmp_path / "my model v1.gguf"
    path.mkdir() if kind == "folder" else path.write_bytes(b"")
    (spec,) = options("--model-path", str(path), "--suite", "base", "--data", "smoke").specs
    assert (spec.name, spec.source, spec.location) == ("my-model-v1", kind, str(path))
    assert options("prompts", "piqa", "--model-path", str(path)).spec == spec
    assert (
        main(["--model-path", str(path), "--data", "smoke"]) == 2
    )  # no model of the card: --suite is needed


def test_two_places_of_weights_are_refused(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    what = ["--suite", "base", "--data", "smoke"]
    assert main(["--model", str(one), "--model-path", str(two), *what]) == 2
    assert "two places of weights: give one" in capsys.readouterr().err
    (spec,) = options("--model", "one", "--model-path", str(two), *what).specs  # a name, and where it is
    assert (spec.name, spec.location) == ("one", str(two))


def test_the_embedded_weights_have_no_revision(capsys):
    for words in (["--revision", "v1"], ["--model", "SmolLM2-135M-Instruct@v1"]):
        assert main([*words, "--data", "smoke"]) == 2
        line = capsys.readouterr().err
        assert "--model HuggingFaceTB/SmolLM2-135M-Instruct" in line or "is not installed" in line


def test_a_server_may_be_judged_by_a_local_model_on_a_device(tmp_path):
    server = [
        "--model",
        "openai:m",
        "--base-url",
        "http://127.0.0.1:1/v1",
        "--suite",
        "instruct",
        "--data",
        "smoke",
    ]
    judge = ["--judge", "local:SmolLM2-360M-Instruct", "--device", "cpu", "--dtype", "float32"]
    found = options(*server, *judge)
    assert found.local is None and found.server is not None
    assert (found.device, found.dtype) == ("cpu", "float32")
    assert found.needs_hub  # for the judge


def test_a_baseline_is_looked_up_where_the_user_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("main", "kept/main", "run"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text("{}")
    from reports.finding import find_run

    assert find_run("main") == Path("main")
    assert find_run("main", tmp_path / "kept") == tmp_path / "kept" / "main"
    assert main(["gate", "--baseline", "run", "--candidate", "run", "--baselines", "kept"]) == 2
    assert "--baselines is where a name is looked up" in capsys.readouterr().err


def test_one_gpu_of_several_goes_without_workers_only(capsys):
    assert options("--device", "cuda:1", "--data", "smoke").device == "cuda:1"
    assert main(["--device", "cuda:1", "--data", "smoke", "--workers", "2"]) == 2
    assert "--device cuda:1 names one GPU" in capsys.readouterr().err
