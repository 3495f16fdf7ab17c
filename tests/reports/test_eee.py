"""Every Eval Ever records: what that project's own validator says of them, and that they say what the run says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from evals.cli import main
from evals.core.errors import EXIT_USAGE
from reports import eee
from reports.runs import load_run
from tests.support.foreign_logs import inspect_log
from tests.support.made_runs import Made, build, edit, edit_samples

HOSTILE = "two\u2028lines <script>\x00 and \udce9".encode("utf-8", "replace").decode()


@pytest.fixture
def validator() -> str:
    """Their command, of a Python of its own (it needs 3.12): $EVERY_EVAL_EVER, or on the path."""
    found = os.environ.get("EVERY_EVAL_EVER") or shutil.which("every_eval_ever")
    if not found:
        pytest.skip("no validator: set EVERY_EVAL_EVER to the command of the package every_eval_ever")
    return found


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("*.json"))]


def docs(folder: Path, record: dict) -> list[dict]:
    content = (folder / record["detailed_evaluation_results"]["file_path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["detailed_evaluation_results"]["checksum"]
    lines = content.decode("ascii").splitlines()
    assert len(lines) == record["detailed_evaluation_results"]["total_rows"]
    return [json.loads(line) for line in lines]


def test_a_record_a_row_with_interval_and_docs(tmp_path, capsys):
    folder = build(tmp_path, Made())
    assert main(["report", str(folder), "--format", "eee", "--output", str(tmp_path / "eee")]) == 0
    run, found = load_run(folder), records(tmp_path / "eee")
    assert capsys.readouterr().err.count("wrote ") == len(found) == len(run.rows) == 4
    for one in found:
        (result,) = one["evaluation_results"]
        row = run.row(result["evaluation_name"])
        details = result["score_details"]
        interval = details["uncertainty"]["confidence_interval"]
        assert details["score"] == row.value and details["uncertainty"]["num_samples"] == row.n
        assert (interval["lower"], interval["upper"]) == row.interval
        samples = docs(tmp_path / "eee", one)
        assert len(samples) == row.n
        if len(row.tasks) == 1:
            mean = sum(each["evaluation"]["score"] for each in samples) / row.n
            assert 100 * mean == pytest.approx(row.value)


def test_the_same_run_gives_the_same_files(tmp_path):
    run = load_run(build(tmp_path, Made()))
    one, two = (eee.write([run], tmp_path / name) for name in ("one", "two"))
    assert [path.relative_to(tmp_path / "one") for path in one] == [
        path.relative_to(tmp_path / "two") for path in two
    ]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_their_validator_takes_them(tmp_path, validator, capsys):
    made = [
        Made(),
        Made(suite="instruct", labels=("HellaSwag", "IFEval (Average prompt/inst)", "BBH (3-shot)")),
    ]
    runs = [build(tmp_path / str(i), one) for i, one in enumerate(made)]
    edit_samples(runs[0], "piqa", lambda columns: columns["prompt"].__setitem__(0, HOSTILE))
    edit(runs[0], lambda data: data["model"].update(name="data", source="hub:org/tiny.model"))
    log = inspect_log(tmp_path / "log.eval", ["C", "I", "C"])
    assert main(["import", str(log), "--output-dir", str(tmp_path / "foreign")]) == 0
    runs.append(Path(capsys.readouterr().out.strip()))
    words = ["--format", "eee", "--output", str(tmp_path / "eee")]
    assert main(["report", *map(str, runs), *words]) == 0
    files = [str(path) for path in sorted((tmp_path / "eee").rglob("*.json*"))]
    done = subprocess.run(
        [validator, "validate", *files], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(files) == 16


def test_another_harnesss_numbers_are_said_to_be_its(tmp_path, capsys):
    assert (
        main(["import", str(inspect_log(tmp_path / "l.eval", ["C"])), "--output-dir", str(tmp_path / "r")])
        == 0
    )
    folder = Path(capsys.readouterr().out.strip())
    eee.write([load_run(folder)], tmp_path / "eee")
    (one,) = records(tmp_path / "eee")
    assert one["eval_library"]["name"] == "inspect" and one["eval_library"]["version"] == "0.3"
    assert one["eval_library"]["additional_details"]["imported_by"].startswith("smol-evals")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--format", "eee"], "--format eee writes a folder of records: say where by --output"),
        (
            ["--format", "eee", "--output", "o", "--plain"],
            "--plain is about tables: --format eee writes records",
        ),
    ],
)
def test_options_that_would_be_dropped_are_refused(tmp_path, capsys, words, line):
    assert main(["report", str(build(tmp_path, Made())), *words]) == EXIT_USAGE
    assert line in capsys.readouterr().err
