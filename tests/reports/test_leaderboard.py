"""The leaderboard: who is ranked against whom, ties, labels, markdown and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from evals import cli
from reports import leaderboard
from reports.boards import Board, build_boards, latest
from reports.runs import load_run
from tests.support.site_runs import MadeRun, boards_of, edit_run, judge, make_run


def names(board: Board) -> list[str]:
    return [entry.run.name for entry in board.entries]


# --- who stands where -----------------------------------------------------------


def test_best_mean_first_and_ranks_count_the_significantly_better(tmp_path: Path) -> None:
    made = [MadeRun("low", skill=0.3, size=300), MadeRun("high", skill=0.7, size=300)]
    (board,) = boards_of(tmp_path, *made, MadeRun("middle", skill=0.5, size=300))
    assert names(board) == ["high", "middle", "low"]
    assert [entry.rank for entry in board.entries] == [1, 2, 3]


def test_runs_that_cannot_be_told_apart_share_a_rank(tmp_path: Path) -> None:
    made = [MadeRun("one", skill=0.5, size=300, seed=1), MadeRun("two", skill=0.5, size=300, seed=2)]
    (board,) = boards_of(tmp_path, *made, MadeRun("worse", skill=0.3, size=300))
    assert {entry.run.name: entry.rank for entry in board.entries} == {"one": 1, "two": 1, "worse": 3}


def test_where_no_run_is_better_none_leads(tmp_path: Path) -> None:
    (board,) = boards_of(tmp_path, MadeRun("same"), MadeRun("same", dtype="float32", time="20260102T040000Z"))
    assert [entry.rank for entry in board.entries] == [1, 1]
    assert not any(cell.leads for entry in board.entries for cell in entry.cells)


def test_the_mean_is_over_rows_in_percent_with_the_rows_errors(tmp_path: Path) -> None:
    (board,) = boards_of(tmp_path, MadeRun("one", suite="instruct"))
    rows = [row for row in board.rows if not row.metric.judged]
    mean = board.entries[0].mean
    assert mean is not None and board.mean_rows == len(rows) == 7
    assert mean.value == pytest.approx(sum(row.value for row in rows) / 7)
    assert mean.stderr == pytest.approx(sum(row.stderr**2 for row in rows) ** 0.5 / 7)


def test_a_row_leads_only_where_it_is_really_ahead(tmp_path: Path) -> None:
    made = [MadeRun("high", skill=0.8, size=300), MadeRun("low", skill=0.3, size=300)]
    (board,) = boards_of(tmp_path, *made)
    high, low = board.entries
    assert all(cell.leads for cell in high.cells) and not any(cell.leads for cell in low.cells)


@pytest.mark.parametrize(
    ("other", "label"),
    [
        (MadeRun("other", limit=10), "first 10 docs a task"),
        (MadeRun("other", source="smoke"), "smoke items"),
        (MadeRun("other", quantization="Q4_1"), "Q4_1 weights"),
        (MadeRun("other", variant=("trivia_qa-256",)), "variant trivia_qa-256"),
        (MadeRun("other", subset=("PIQA",), sizes={"piqa": 30}), "subset: PIQA"),
        (MadeRun("other", missing=("HellaSwag",)), "without HellaSwag"),
        (MadeRun("other", rows=("PIQA", "MMLU (cloze)", "GSM8K (5-shot)")), "3 of 9 rows"),
    ],
)
def test_a_partial_run_is_labelled_and_never_ranked_against_a_whole_one(
    tmp_path: Path, other: MadeRun, label: str
) -> None:
    boards = boards_of(tmp_path, MadeRun("whole"), other)
    assert [names(board) for board in boards] == [["whole"], ["other"]]
    assert boards[0].labels == ()
    assert label in [one.text for one in boards[1].labels]
    assert boards[1].entries[0].rank is None


def test_runs_of_one_kind_are_ranked_among_themselves(tmp_path: Path) -> None:
    made = [MadeRun("a", skill=0.9, limit=35), MadeRun("b", skill=0.2, limit=35)]
    (board,) = boards_of(tmp_path, *made)
    assert [entry.rank for entry in board.entries] == [1, 2]
    assert board.docs == 35 * 10


def test_other_prompts_make_another_board_which_says_so(tmp_path: Path) -> None:
    made = [MadeRun("a"), MadeRun("b"), MadeRun("longer", sizes={"piqa": 41})]
    first, second = boards_of(tmp_path, *made)
    assert names(first) == ["longer"] and sorted(names(second)) == ["a", "b"]
    assert first.apart == () and second.apart == ("piqa",)


def test_suites_are_apart(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, MadeRun("a"), MadeRun("a", suite="instruct"))
    assert [board.suite for board in boards] == ["base", "instruct"]


def test_latest_takes_the_fullest_then_the_newest(tmp_path: Path) -> None:
    made = [
        MadeRun("a", time="20260101T000000Z"),
        MadeRun("a", time="20260102T000000Z"),
        MadeRun("a", time="20260103T000000Z", limit=5),
        MadeRun("a", time="20260104T000000Z", source="smoke"),
        MadeRun("a", time="20260105T000000Z", rows=("PIQA",)),
    ]
    runs = [load_run(make_run(tmp_path, one)) for one in made]
    assert [run.folder.name for run in latest(runs)] == ["20260102T000000Z-base"]
    assert sum(len(board.entries) for board in build_boards(runs)) == 5


@pytest.mark.parametrize(("other", "ranks"), [("one", [1, 2]), ("two", [None, None])])
def test_ratings_are_compared_under_one_judge_only(
    tmp_path: Path, other: str, ranks: list[int | None]
) -> None:
    folders = [
        judge(make_run(tmp_path, MadeRun("a", suite="instruct")), "one", 7.0),
        judge(make_run(tmp_path, MadeRun("b", suite="instruct")), other, 3.0),
    ]
    (board,) = build_boards([load_run(folder) for folder in folders])
    position = next(k for k, row in enumerate(board.rows) if row.metric.judged)
    cells = {entry.run.name: entry.cells[position] for entry in board.entries}
    assert [cells["a"].rank, cells["b"].rank] == ranks
    assert board.mean_rows == 7
    text = leaderboard.markdown([board], [])
    assert "Judge: one, prompts single-v1 (abababab)" in text and ("Judge: two" in text) == (other == "two")


def test_unjudged_answers_have_no_rank(tmp_path: Path) -> None:
    (board,) = boards_of(tmp_path, MadeRun("a", suite="instruct"), MadeRun("b", suite="instruct"))
    position = next(k for k, row in enumerate(board.rows) if row.metric.judged)
    assert all(entry.cells[position].rank is None for entry in board.entries)


# --- the command -----------------------------------------------------------


def command(*words: object) -> int:
    return cli.main(["leaderboard", *map(str, words)])


def test_the_command_writes_all_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "results", MadeRun("a"))
    assert command(tmp_path / "results") == 0
    out = tmp_path / "results" / "leaderboard"
    assert capsys.readouterr().out.split() == [
        str(out / "LEADERBOARD.md"), str(out / "leaderboard.csv"), str(out / "site" / "index.html"),
    ]  # fmt: skip
    assert command(tmp_path / "results") == 0  # again, over what is there


def test_formats_can_be_chosen(tmp_path: Path) -> None:
    make_run(tmp_path / "results", MadeRun("a"))
    assert command(tmp_path / "results", "--output", tmp_path / "out", "--format", "csv") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["leaderboard.csv"]


def test_no_run_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path) == 2
    assert "no run in" in capsys.readouterr().err
    assert command(tmp_path / "absent") == 2


def test_an_unusable_folder_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    make_run(results, MadeRun("good"))
    edit_run(make_run(results, MadeRun("bad")), lambda run: run.update(schema_version=99))
    assert command(results, "--format", "md") == 0
    assert "left out: 'bad/" in capsys.readouterr().err
    text = (results / "leaderboard" / "LEADERBOARD.md").read_text()
    assert "Left out" in text and "99" in text and "| bad" not in text


def test_only_unusable_folders_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_run(make_run(tmp_path, MadeRun("bad")), lambda run: run.update(schema_version=99))
    assert command(tmp_path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_markdown_has_values_with_intervals_and_docs(tmp_path: Path) -> None:
    boards = boards_of(
        tmp_path, MadeRun("a", size=300), MadeRun("b", skill=0.3, size=300), MadeRun("c", limit=3)
    )
    text = leaderboard.markdown(boards, [])
    row = boards[0].entries[0].cells[0].row
    low, high = row.interval
    assert f"**{row.value:.1f} ±{(high - low) / 2:.1f}**" in text
    assert "HellaSwag (n = 300)" in text and "HellaSwag (n = 3)" in text
    assert "first 3 docs a task" in text and "Not ranked" in text


def test_markdown_and_csv_escape_names(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, MadeRun("=a|b<script>`[x](y)"))
    text = leaderboard.markdown(boards, [])
    assert "<script>" not in text and "=a\\|b&lt;script&gt;\\`\\[x\\](y)" in text
    lines = list(csv.DictReader(io.StringIO(leaderboard.csv_text(boards, tmp_path))))
    assert {line["model"] for line in lines} == {"'=a|b<script>`[x](y)"}


def test_csv_has_every_row_unrounded(tmp_path: Path) -> None:
    boards = boards_of(tmp_path, MadeRun("a", skill=0.9), MadeRun("b", skill=0.1))
    lines = list(csv.DictReader(io.StringIO(leaderboard.csv_text(boards, tmp_path))))
    assert len(lines) == 2 * (1 + 9)
    entry, line = boards[0].entries[0], lines[1]
    row = entry.cells[0].row
    assert (line["row"], line["rank"], line["row_rank"], line["n"]) == ("HellaSwag", "1", "1", "40")
    assert float(line["value"]) == row.value and float(line["low"]) == row.interval[0]
    assert line["run"] == "a/20260102T030405Z-base"
