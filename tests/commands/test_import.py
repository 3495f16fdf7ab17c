"""Logs of lm-eval and inspect, imported: what report, compare, gate and leaderboard make of them; hostile ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evals.cli import main
from evals.core.errors import EXIT_USAGE, UserError
from evals.core.runlog import read_log
from reports.runs import load_run
from tests.support.foreign_logs import inspect_log, lm_eval_log
from tests.support.made_runs import Made, build, edit
from tests.support.tiny_checkpoint import write_tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An lm-eval log of a tiny model, made here."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'smol-evals[lm-eval]'")
    folder = tmp_path_factory.mktemp("log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        return lm_eval_log(folder, write_tiny_model(folder / "tiny"))


@pytest.fixture
def log(made, tmp_path) -> Path:
    """A copy that a test may change: its results file."""
    shutil.copytree(made, tmp_path / "log")
    (results,) = (tmp_path / "log").rglob("results_*.json")
    return results


def imported(place: Path, results: Path, capsys) -> Path:
    assert main(["import", str(place), "--output-dir", str(results)]) == 0
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


def refused(place: Path, capsys) -> str:
    assert main(["import", str(place), "--output-dir", str(place.parent / "refused")]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    return captured.err


def change(results: Path, alter) -> None:
    data = json.loads(results.read_text("utf-8"))
    alter(data)
    results.write_text(json.dumps(data), "utf-8")


def change_samples(results: Path, task: str, alter) -> None:
    (path,) = results.parent.glob(f"samples_{task}_*.jsonl")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        alter(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def test_an_lm_eval_log_has_lm_evals_numbers(made, tmp_path, capsys):
    run = load_run(imported(made, tmp_path, capsys))
    (results,) = made.rglob("results_*.json")
    said = json.loads(results.read_text())["results"]
    assert [row.value for row in run.rows] == pytest.approx(
        [100 * said["arc_easy"]["acc_norm,none"], 100 * said["gsm8k"]["exact_match,strict-match"]]
    )
    assert [row.n for row in run.rows] == [8, 8] and run.name == "tiny (lm-eval)"
    assert f"acc: {100 * said['arc_easy']['acc,none']:.1f}" in run.rows[0].notes[-1].text
    assert run.model.fingerprint.startswith("sha256:") and run.model.dtype == "float32"
    assert str(made) not in (run.folder / "run.json").read_text()


def test_it_is_reported_compared_gated_and_ranked_as_foreign(log, tmp_path, capsys):
    results = tmp_path / "results"
    first = imported(log.parent, results, capsys)
    change_samples(log, "arc_easy", lambda line: line.update(acc_norm=0.0))
    change(log, lambda data: data["results"]["arc_easy"].update({"acc_norm,none": 0.0}))
    second = imported(log, results, capsys)

    assert main(["report", str(first)]) == 0
    report = capsys.readouterr().out
    assert "Imported from lm-eval: comparable with no card" in report and "(lm-eval)" in report
    assert "measured by lm-eval 0.4.13, not by this project" in report
    assert main(["compare", str(first), str(second)]) == 0
    compared = capsys.readouterr().out
    assert "tiny (lm-eval)" in compared and "arc_easy (1-shot), acc_norm" in compared

    baselines = ["--baselines", str(tmp_path / "baselines")]
    assert main(["bless", str(first), "--as", "main", *baselines]) == 0
    assert main(["gate", "--baseline", "main", "--candidate", str(first), *baselines]) == 0
    capsys.readouterr()
    assert main(["leaderboard", str(results), "--output", str(tmp_path / "board")]) == 0
    board = (tmp_path / "board" / "LEADERBOARD.md").read_text("utf-8")
    assert "tiny (lm-eval)" in board and "another harness's" in board


def test_it_is_never_beside_a_card(made, tmp_path, capsys):
    foreign = imported(made, tmp_path, capsys)
    ours = build(tmp_path, Made(name="ours"))
    assert main(["compare", str(foreign), str(ours)]) == EXIT_USAGE
    assert "compare runs of one suite" in capsys.readouterr().err
    assert main(["report", str(foreign), "--model-index", str(tmp_path / "card.yaml")]) == EXIT_USAGE
    assert "nothing for a model card" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alter", "line"),
    [
        (lambda data: data["rows"][0].update(notes=[]), "a row of another harness is not marked as such"),
        (lambda data: data["model"].update(card_column="SmolLM2-360M"), "a card of their own"),
        (lambda data: data.pop("card"), "a card of their own"),
    ],
)
def test_the_mark_cannot_be_taken_off(made, tmp_path, capsys, alter, line):
    folder = edit(imported(made, tmp_path, capsys), alter)
    with pytest.raises(UserError, match=line):
        read_log(folder)


def test_hostile_texts_are_shown_as_text(log, tmp_path, capsys):
    evil = "<script>alert(1)</script>\x1b[31m|../../x\n"
    change(
        log, lambda data: data["config"].update(model_args={"pretrained": evil}) or data.update(date=1e300)
    )
    change_samples(log, "arc_easy", lambda line: line.update(target=evil))
    folder = imported(log, tmp_path / "results", capsys)
    assert folder.parent.parent == tmp_path / "results" and folder.parent.name.isprintable()
    assert main(["report", str(folder), "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert "<script>alert" not in page and "\x1b" not in page
    assert main(["leaderboard", str(tmp_path / "results"), "--output", str(tmp_path / "board")]) == 0
    for path in (tmp_path / "board").rglob("*.html"):
        assert "<script>alert" not in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("alter", "line"),
    [
        (lambda data: data.pop("configs"), "does not read like lm-eval's"),
        (lambda data: data.update(results=[]), "does not read like lm-eval's"),
        (lambda data: data.update(results={}), "names no task"),
        (
            lambda data: data["results"].update({"../up": {}}) or data["configs"].update({"../up": {}}),
            "no samples of",
        ),
    ],
)
def test_results_that_are_none_are_one_line(log, capsys, alter, line):
    change(log, alter)
    assert line in refused(log, capsys)


@pytest.mark.parametrize(
    ("alter", "line"),
    [
        (
            lambda one: one.update(acc_norm=7.0, acc="right"),
            "arc_easy, acc_norm: a doc's score is no number from 0 to 1",
        ),
        (lambda one: one.update(doc_id=0), "one stands in them twice"),
        (lambda one: one.update(acc_norm=1.0, acc=1.0), "it is no mean of its docs' scores"),
    ],
)
def test_a_figure_that_cannot_be_taken_is_left_out_and_told(log, tmp_path, capsys, alter, line):
    change(log, lambda data: data["results"]["arc_easy"].update({"acc_norm,none": 0.3, "acc,none": 0.3}))
    change_samples(log, "arc_easy", alter)
    assert main(["import", str(log), "--output-dir", str(tmp_path / "results")]) == 0
    captured = capsys.readouterr()
    assert "left out: " in captured.err and line in captured.err
    assert [row.label for row in read_log(Path(captured.out.strip())).rows] == [
        "gsm8k (1-shot), exact_match strict-match"
    ]


def test_samples_that_are_missing_or_broken_are_one_line(log, capsys):
    (samples,) = log.parent.glob("samples_gsm8k_*.jsonl")
    samples.write_bytes(b'{"doc_id": 0\n')
    assert "is not valid JSON" in refused(log, capsys)
    samples.write_bytes(b"[" * 100_000)
    assert "is not valid JSON" in refused(log, capsys)
    samples.unlink()
    assert "run lm-eval with --log_samples" in refused(log, capsys)


def test_places_that_hold_no_log_are_one_line(log, tmp_path, capsys):
    assert "no log" in refused(tmp_path / "nothing", capsys)
    (tmp_path / "empty").mkdir()
    assert "holds neither" in refused(tmp_path / "empty", capsys)
    shutil.copy(log, log.with_name("results_again.json"))
    assert "holds 2 results of lm-eval: give one" in refused(log.parent, capsys)


@pytest.mark.parametrize("ending", ["eval", "json"])
def test_an_inspect_log(tmp_path, capsys, ending):
    log = inspect_log(tmp_path / f"sums.{ending}", ["C", "I", "C", "C"])
    run = load_run(imported(log, tmp_path / "results", capsys))
    (row,) = run.rows
    assert (row.label, row.value, row.n, run.name) == ("sums, match", 75.0, 4, "org/tiny (inspect)")
    assert "measured by inspect 0.3, not by this project" in row.notes[0].text
    assert "includes: 100.0" in row.notes[-1].text


def test_epochs_are_averaged_and_partial_credit_counts(tmp_path, capsys):
    log = inspect_log(tmp_path / "sums.eval", ["C", "I", "P", "N", 1, 0.25], epochs=2)
    (row,) = load_run(imported(log, tmp_path / "results", capsys)).rows
    assert (row.value, row.n, row.metric.name) == (
        pytest.approx(100 * (0.5 + 0.25 + 0.625) / 3),
        3,
        "foreign_score",
    )


def test_two_inspect_logs_of_one_task_are_compared(tmp_path, capsys):
    one = imported(inspect_log(tmp_path / "a.eval", ["C", "I", "C"] * 9), tmp_path / "one", capsys)
    two = imported(inspect_log(tmp_path / "b.eval", ["C", "C", "C"] * 9), tmp_path / "two", capsys)
    assert main(["compare", str(one), str(two)]) == 0
    assert "0 / 9" in capsys.readouterr().out


def test_inspect_logs_that_cannot_be_taken_are_one_line(tmp_path, capsys):
    broken = tmp_path / "broken.eval"
    broken.write_bytes(b"PK\x03\x04 no archive")
    assert "inspect_ai cannot read it" in refused(broken, capsys)
    both = tmp_path / "both"
    both.mkdir()
    for name in ("one", "two"):
        inspect_log(both / f"{name}.eval", ["C"], model=f"hf/org/{name}")
    assert "holds logs of several models (hf/org/one, hf/org/two)" in refused(both, capsys)


def test_a_score_that_is_no_number_is_left_out_and_told(tmp_path, capsys):
    log = inspect_log(tmp_path / "a.eval", [{"f1": 1}])
    assert main(["import", str(log), "--output-dir", str(tmp_path / "results")]) == 0
    assert "left out: sums, match: a score is" in capsys.readouterr().err
