"""Files that are missing or broken are found before anything heavy is imported."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.weight_files import DATA, HONEST, folder, gguf, safetensors

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "lighteval", "datasets", "pandas")
PIQA = {"goal": "Open a jar", "sol1": "Twist the lid", "sol2": "Eat the lid", "label": 0}
LINE = json.dumps(PIQA) + "\n"


def fails_early(tmp_path: Path, *argv: Any, suite: str = "base") -> str:
    """The one line of a command that ends with exit code 2, having imported nothing heavy."""
    code = (
        "import sys\nfrom evals.cli import main\n"
        f"code = main({[*map(str, argv), '--suite', suite, '--output-dir', str(tmp_path / 'out')]!r})\n"
        f"found = set({HEAVY!r}) & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()
    return done.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    (place / "piqa").mkdir(parents=True)
    (place / "piqa" / "validation.jsonl").write_text(LINE)
    return place


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model.safetensors": safetensors(HONEST, DATA[:-1])}, "model.safetensors"),
        ({"model.safetensors": b""}, "model.safetensors"),
        ({"config.json": b"{"}, "config.json"),
        ({"model.safetensors.index.json": b'{"weight_map": {"t": "../x.safetensors"}}'}, "same folder"),
        ({"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."}, "pickle"),
        ({"tokenizer.json": None}, "no tokenizer"),
    ],
)
def test_broken_weights(tmp_path: Path, data: Path, files: dict[str, bytes | None], says: str) -> None:
    model = folder(tmp_path / "m", {name: content for name, content in files.items() if content is not None})
    for name in (name for name, content in files.items() if content is None):
        (model / name).unlink()
    assert says in fails_early(tmp_path, "--model", model, "--data", data, "--tasks", "piqa")


def test_broken_gguf(tmp_path: Path, data: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(data=100))
    argv = ("--model", "mine", "--model-path", tmp_path / "m.gguf", "--data", data, "--tasks", "piqa")
    assert "cut short" in fails_early(tmp_path, *argv)


def test_a_broken_local_judge(tmp_path: Path, data: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf())
    (tmp_path / "judge.gguf").write_bytes(gguf(data=100))
    argv = ("--model", tmp_path / "m.gguf", "--judge", f"local:{tmp_path / 'judge.gguf'}", "--data", data)
    assert "judge.gguf" in fails_early(tmp_path, *argv, "--tasks", "piqa,mt_bench", suite="instruct")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"piqa/validation.jsonl": ""}, "no parquet or JSON-lines file for what is asked for (piqa"),
        ({"piqa/validation.jsonl": '{"goal": '}, "cannot read piqa/validation.jsonl"),
        ({"piqa/validation.parquet": "PAR1 not really"}, "cannot read piqa/validation.parquet"),
        ({"SOURCES.json": "{"}, "SOURCES.json in the data folder is not a list"),
        (
            {"SOURCES.json": json.dumps([{"file": "piqa/validation.jsonl", "sha256": "0" * 64}])},
            "is not what its SOURCES.json says",
        ),
    ],
)
def test_broken_data(tmp_path: Path, data: Path, files: dict[str, str], says: str) -> None:
    for name, content in files.items():
        (data / name).write_text(content)
        if not content:
            (data / name).unlink()
    (tmp_path / "m.gguf").write_bytes(gguf())
    assert says in fails_early(tmp_path, "--model", tmp_path / "m.gguf", "--data", data, "--tasks", "piqa")


def test_what_is_not_asked_for_may_be_broken(data: Path) -> None:
    """Files of other tasks, of no task, and of a subset that has its file beside others."""
    from evals.data.sources import check_folder, parse_source

    for name in ("mmlu/test.parquet", "bbh/snarks.parquet", "notes.parquet"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("broken")
    digest = hashlib.sha256(LINE.encode()).hexdigest()
    (data / "SOURCES.json").write_text(json.dumps([{"file": "piqa/validation.jsonl", "sha256": digest}]))
    check_folder(parse_source(str(data)), ["piqa", "bbh_word_sorting"])
    check_folder(parse_source(str(data)), ["smollm3_piqa"])  # these two read piqa's files
    check_folder(parse_source(str(data)), ["olmes_piqa_mc"])
    with pytest.raises(Exception, match=r"bbh/snarks\.parquet"):
        check_folder(parse_source(str(data)), ["piqa", "bbh_snarks"])
