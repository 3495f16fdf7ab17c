"""A card given as data, with metrics that are not 0/1 and one of which less is better, through every report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from evals import cli
from evals.core.card import Card
from evals.core.errors import UserError
from reports import card as card_tables
from reports import compare, curve, flips
from reports.boards import build_boards
from reports.gate.policy import Policy, Rule
from reports.gate.whole import gate
from reports.render.tables import markdown
from reports.runs import load_run
from reports.site.build import write_site
from tests.support import toy
from tests.support.made_runs import edit, edit_samples
from tests.support.printed import cells


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return toy.register(monkeypatch)


def test_the_values_are_recomputed_in_their_units(tmp_path: Path, card: Card) -> None:
    run = load_run(toy.made(tmp_path, card, "a", 2, 1.0))
    words, books = run.rows
    f1 = np.array(run.columns("toy_words")["toy_f1"])
    assert words.value == pytest.approx(100 * f1.mean())
    assert words.stderr == pytest.approx(100 * f1.std(ddof=1) / np.sqrt(200))
    prose, verse = (np.array(run.columns(task)["toy_bits"]) for task in ("toy_prose", "toy_verse"))
    assert books.value == pytest.approx((prose.mean() + verse.mean()) / 2)
    low, high = words.interval
    assert high - low == pytest.approx(2 * 1.959964 * words.stderr)


def test_a_score_that_does_not_follow_is_refused(tmp_path: Path, card: Card) -> None:
    folder = toy.made(tmp_path, card, "a", 2, 1.0)
    edit_samples(folder, "toy_prose", lambda c: c["toy_bits"].__setitem__(3, 0.1))
    with pytest.raises(UserError, match="'toy_bits' of doc 21 does not follow"):
        load_run(folder)
    folder = toy.made(tmp_path, card, "b", 2, 1.0)
    edit_samples(folder, "toy_words", lambda c: c["toy_f1"].__setitem__(3, 1.5))
    with pytest.raises(UserError, match="'toy_f1' is not from 0 to 1"):
        load_run(folder)


def test_the_report_has_own_digits_bold_and_verdicts(tmp_path: Path, card: Card) -> None:
    folder = toy.made(tmp_path, card, "a", 2, 1.1, model={"card_column": "Small"})
    text = card_tables.render_tables([load_run(folder)])
    table = cells(text.split("## Toy Table", 1)[1].split("\n## ", 1)[0])
    assert table[0] == ["Row", "a (measured)", "Small", "Big"]
    assert table[1][0] == "Words (F1)" and table[1][2:] == ["50.0", "**71.2**"]
    assert table[2][0] == "Books (bits)" and table[2][2:] == ["1.2000", "**0.8412**"]
    assert table[2][1].startswith("1.2005 ± 0.0069")
    rows = cells(text.split("row by row", 1)[1])
    assert rows[2][6].startswith("reproduced (within ±0.05)")


@pytest.mark.parametrize(
    "level, verdict", [(0.9, "B is better"), (1.2, "B is worse"), (1.0, "same on every doc")]
)
def test_compare_knows_which_way_is_better(tmp_path: Path, card: Card, level: float, verdict: str) -> None:
    first, second = (
        load_run(toy.made(tmp_path, card, "a", 2, 1.0)),
        load_run(toy.made(tmp_path, card, "b", 2, level)),
    )
    rows = {one.label: one for one in compare.compare_runs([first, second])[0].rows}
    books = rows["Books (bits)"]
    assert books.verdict.startswith(verdict) and rows["Words (F1)"].verdict == "same on every doc"
    assert books.difference.changed == (0 if level == 1.0 else 400)
    assert (books.difference.p_worse < 0.01) == (level > 1.0)
    json.loads(compare.as_json([first, second]))


def test_flips_show_the_docs_that_turned_worse_first(tmp_path: Path, card: Card) -> None:
    first, second = (
        load_run(toy.made(tmp_path, card, "a", 2, 1.0)),
        load_run(toy.made(tmp_path, card, "b", 1, 1.2)),
    )
    found = flips.find_flips(first, second, 1)
    assert [flip.task for flip in found] == ["toy_words", "toy_prose", "toy_verse"]
    assert found[0].first_score > found[0].second_score and found[1].first_score < found[1].second_score


def test_the_gate_stops_a_rise_of_what_should_fall(tmp_path: Path, card: Card) -> None:
    baseline = load_run(toy.made(tmp_path, card, "a", 2, 1.0))
    rule = Policy(Rule(max_drop=0.05))
    for level, quarters, books, words in ((1.2, 2, "REGRESSION", "PASS"), (0.8, 1, "PASS", "REGRESSION")):
        candidate = load_run(toy.made(tmp_path, card, f"b{level}", quarters, level))
        rows = {row.label: row for row in gate(baseline, candidate, rule).rows}
        assert (rows["Books (bits)"].verdict, rows["Words (F1)"].verdict) == (books, words)
    assert rows["Words (F1)"].reason.startswith("dropped by 25.00")
    worse = load_run(toy.made(tmp_path, card, "c", 2, 1.2))
    reasons = [row.reason for row in gate(baseline, worse, rule).rows]
    assert reasons[1] == "rose by 0.200 (p < 0.001), allowed 0.050"


def test_the_commands_take_the_card_from_the_runs(
    tmp_path: Path, card: Card, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    results = tmp_path / "results"
    one, two = toy.made(results, card, "good", 3, 0.9), toy.made(results, card, "bad", 1, 1.3)
    policy = tmp_path / "policy.toml"
    policy.write_text('[rows."Books (bits)"]\nmax_drop = 0.05\n')
    words = ["--baseline", "kept", "--baselines", str(tmp_path / "kept"), "--candidate", str(two)]
    assert cli.main(["bless", str(one), "--as", "kept", "--baselines", str(tmp_path / "kept")]) == 0
    assert cli.main(["gate", *words, "--policy", str(policy)]) == 1
    assert "REGRESSION   Books (bits)  1.000 → 1.400 (+0.400)" in capsys.readouterr().out
    assert cli.main(["report", str(one), str(two), "--plot", str(tmp_path / "rows.svg")]) == 0
    assert "bits, lower is better" in (tmp_path / "rows.svg").read_text()
    assert cli.main(["compare", str(one), str(two), "--show-flips", "1"]) == 0
    assert cli.main(["leaderboard", str(results)]) == 0
    lines = list(csv.DictReader((results / "leaderboard" / "leaderboard.csv").open()))
    found = {(line["model"], line["row"]): (line["rank"], line["row_rank"], line["unit"]) for line in lines}
    assert found["good", "Books (bits)"] == ("1", "1", "bits, lower is better")
    assert found["bad", "Books (bits)"] == ("2", "2", "bits, lower is better")
    assert "## Toy Table: whole suite" in (results / "leaderboard" / "LEADERBOARD.md").read_text()


def test_rows_that_are_not_in_percent_stay_out_of_the_mean(tmp_path: Path, card: Card) -> None:
    runs = [
        load_run(toy.made(tmp_path, card, name, q, level))
        for name, q, level in (("a", 1, 0.5), ("b", 3, 1.5))
    ]
    (board,) = build_boards(runs)
    assert [entry.run.name for entry in board.entries] == ["b", "a"] and board.mean_rows == 1
    assert [entry.mean.value for entry in board.entries] == [
        entry.run.rows[0].value for entry in board.entries
    ]
    assert [[cell.rank for cell in entry.cells] for entry in board.entries] == [[1, 2], [2, 1]]
    assert [[cell.leads for cell in entry.cells] for entry in board.entries] == [[True, False], [False, True]]


def test_the_site_says_what_is_right_and_which_way_is_better(tmp_path: Path, card: Card) -> None:
    runs = [
        load_run(toy.made(tmp_path, card, name, q, level))
        for name, q, level in (("a", 1, 0.5), ("b", 3, 1.5))
    ]
    site = write_site(tmp_path / "site", build_boards(runs), [], True)
    _, index = json.loads(f"[{(site / 'data' / 'index.js').read_text()[len('smol.put(') : -3]}]")
    grades = {one["task"]: (one["right"], one["wrong"], one["lower"]) for one in index["sets"]}
    assert grades["toy_words"] == (1, 0, False) and grades["toy_prose"] == (None, None, True)
    page = next((site / "models").glob("a-*.html")).read_text(encoding="utf-8")
    assert "Bits, lower is better; lines are 95 % intervals." in page and "0.600" in page


def test_the_curve_takes_the_lowest_for_the_best(tmp_path: Path, card: Card) -> None:
    runs = [load_run(toy.made(tmp_path, card, f"step-{k}", 2, 1.5 / k)) for k in (1, 2, 3)]
    table = cells(markdown(curve.tables(curve.find_curves(runs))[0]))
    assert [row[2].startswith("**") for row in table[1:]] == [False, False, True]
    curve.draw(curve.find_curves(runs), tmp_path / "curve.svg")
    assert "bits, lower is better" in (tmp_path / "curve.svg").read_text()


def test_a_card_may_not_pass_for_one_that_ships(tmp_path: Path, card: Card) -> None:
    folder = toy.made(tmp_path, card, "a", 2, 1.0)
    edit(folder, lambda r: (r.update(suite="base"), r["card"].update(name="base")))
    with pytest.raises(UserError, match="one that ships"):
        load_run(folder)
    folder = toy.made(tmp_path, card, "b", 2, 1.0)
    edit(folder, lambda r: r.pop("card"))
    with pytest.raises(UserError, match="unknown and its card is not in"):
        load_run(folder)
    path = tmp_path / "elsewhere.toml"
    path.write_text(toy.TOML)
    edit(folder, lambda r: r.update(suite=str(path)))  # a name is never read as a path
    with pytest.raises(UserError, match="unknown and its card is not in"):
        load_run(folder)
