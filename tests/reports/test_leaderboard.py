"""The leaderboard: who is ranked against whom, ties, labels, markdown, CSV, and the site's files."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from evals import cli
from evals.core import statistics
from evals.core.errors import UserError
from reports import leaderboard
from reports.boards import Board, build_boards, latest
from reports.runs import load_run
from reports.site import samples, scripts
from reports.site.build import MARK, write_site
from reports.site.figures import Figure, Line, axis, forest
from tests.support.site_runs import MadeRun, edit_run, judge, make_run

EVIL = "</script><script>alert(1)</script><!--\u2028<img src=x onerror=alert(2)>"


def boards_of(results: Path, *made: MadeRun, every: bool = False) -> list[Board]:
    runs = [load_run(make_run(results, one)) for one in made]
    return build_boards(runs if every else latest(runs))


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


# --- data for the site -----------------------------------------------------------


def parsed(path: Path) -> tuple[str, object]:
    """Key and value of a script file, which must be a single call of smol.put."""
    match = re.fullmatch(r"smol\.put\((.*)\);\n", path.read_text(encoding="ascii"))
    assert match
    key, value = json.loads(f"[{match[1]}]")
    return key, value


def test_script_json_cannot_leave_a_script() -> None:
    text = scripts.script_json({"a": EVIL, "b": [float("nan"), float("-inf"), 1.5], "c": "\ud800 é & '"})
    assert text.isascii() and not set("<>&'") & set(text)
    assert json.loads(text) == {"a": EVIL, "b": [None, None, 1.5], "c": "\ud800 é & '"}


def test_slugs_are_safe_and_distinct() -> None:
    for name in ("../../etc/passwd", "a/b", "A B", "", "..", "con", "x" * 300, "名前", EVIL):
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", scripts.slug(name))
    assert len({scripts.slug(name) for name in ("a b", "a-b", "A b", "名", "前")}) == 5


def test_samples_come_back_whole_from_their_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK_DOCS", 7)
    run = load_run(
        make_run(tmp_path / "r", MadeRun("a", rows=("GSM8K (5-shot)",), output="\U0001f600 " + EVIL))
    )
    table = run.table("gsm8k")
    answers = samples.Answers(0, "gsm8k", table, table.column("final_answer_match").to_pylist())
    (group,) = samples.group_sets([answers])
    entry = samples.write_set(tmp_path / "data", group, shots=5)
    assert entry["starts"] == [0, 7, 14, 21, 28, 35] and entry["n"] == 40
    prompts, outputs = [], []
    for number in range(6):
        key, docs = parsed(tmp_path / "data" / entry["name"] / f"docs-{number}.js")
        assert key == f"{entry['name']}/docs-{number}"
        before = b""
        for shared, rest in zip(docs["shared"], docs["rest"], strict=True):  # UTF-16 units, as in the browser
            before = before[: 2 * shared] + rest.encode("utf-16-le")
            prompts.append(before.decode("utf-16-le"))
        outputs += dict(parsed(tmp_path / "data" / entry["name"] / f"run-0-{number}.js")[1])["output"]
    assert prompts == table.column("prompt").to_pylist()
    assert outputs == table.column("output").to_pylist()
    scores = parsed(tmp_path / "data" / entry["name"] / "scores-0.js")[1]
    assert [int(digit) for digit in scores] == list(answers.scores)


def test_judgments_stand_beside_their_questions(tmp_path: Path) -> None:
    folder = judge(make_run(tmp_path, MadeRun("a", suite="instruct")), "one", 7.0)
    first, second = (json.loads(text) for text in samples.judgments(folder, [81, 82]))
    assert (
        first == [[1, "one", "single-v1", 7.0, "<b>good</b>"], [2, "one", "single-v1", None, "?"]]
        and second == []
    )
    (folder / samples.JUDGMENTS).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"judgments\.parquet cannot be read"):
        samples.judgments(folder, [81])


def test_front_coding_counts_utf16_units() -> None:
    prompts = ["\U0001f600\U0001f600 one", "\U0001f600\U0001f600 two", "\U0001f600x"]
    chunk = samples._front_coded({"prompt": prompts}, 0, 3)
    assert chunk["shared"] == [0, 5, 2] and chunk["rest"] == [prompts[0], "two", "x"]


def test_a_limited_run_shares_the_docs_of_a_whole_one(tmp_path: Path) -> None:
    made = [
        MadeRun("limited", limit=5),
        MadeRun("whole"),
        MadeRun("other", sizes={"piqa": 12}, variant=("v",)),
    ]
    answers = [
        samples.Answers(
            k, "piqa", (table := load_run(make_run(tmp_path, one)).table("piqa")), [1] * len(table)
        )
        for k, one in enumerate(made)
    ]
    groups = samples.group_sets(answers)
    assert [[member.run for member in group.members] for group in groups] == [[1, 0], [2]]


def test_scores_that_are_not_right_or_wrong_stay_numbers() -> None:
    assert samples._packed([1, 0, 1]) == "101"
    assert samples._packed([7.5, None, 1]) == [7.5, None, 1]


def test_an_uneven_interval_shows_its_ends() -> None:
    assert Figure(43.0, 41.3, 44.7, 3243).spread_text == "±1.7"
    assert Figure(1.4, 0.9, 2.2, 1319).spread_text == "0.9–2.2"
    assert leaderboard._value(Figure(1.4, 0.9, 2.2, 1319)) == "1.4 (0.9–2.2)"
    assert Figure(5.0, None, None, 1).spread_text == "±?"
    assert Figure(5.0, 4.9, 5.1, 9, decimals=2).spread_text == "±0.10"


def test_axes_hold_their_values_with_round_ticks() -> None:
    for values in ([38.8, 61.0], [0.0, 0.0], [99.2, 100.0], [3.41, 3.52], [1.0]):
        scale = axis(values)
        assert scale.low <= min(values) and scale.high >= max(values) and 1 <= len(scale.ticks()) <= 9
    assert forest([Line("none", Figure(None))], "", "") is None


# --- the pages -----------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def evil_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of runs whose every text tries to break out."""
    results = tmp_path_factory.mktemp("evil")
    folder = make_run(results, MadeRun("x", suite="instruct", output=EVIL))
    edit_run(
        folder, lambda run: run["model"].update(name=EVIL, source=f'"{EVIL}', revision="javascript:alert(1)")
    )
    edit_run(folder, lambda run: run["rows"][2]["notes"].append({"code": "secondary", "text": EVIL}))
    edit_run(folder, lambda run: run["data"]["tasks"]["piqa"].update(note=EVIL, revision=EVIL))
    edit_run(folder, lambda run: run["provenance"].update(engine=EVIL, versions={EVIL: EVIL}))
    runs = [load_run(folder), load_run(make_run(results, MadeRun("y", suite="instruct")))]
    return write_site(results / "site", build_boards(runs), [EVIL], True)


def test_pages_hold_no_text_as_markup(evil_site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in evil_site.rglob("*.html")}
    assert len(pages) > 30
    for page in pages.values():
        assert not [
            attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs or "style" in attrs
        ]
        assert all("src" in attrs for tag, attrs in page.tags if tag == "script")
    assert any("<img src=x onerror=alert(2)>" in text for page in pages.values() for text in page.texts)


def test_links_are_relative_and_lead_to_files(evil_site: Path) -> None:
    for path in evil_site.rglob("*.html"):
        for tag, attrs in Page(path.read_text(encoding="utf-8")).tags:
            target = attrs.get("href") if tag in ("a", "link") else attrs.get("src")
            if target is None or target.startswith(("#", "data:,")):
                continue
            assert not re.match(r"[a-z]+:|//", target), target
            assert (path.parent / target.partition("#")[0]).is_file(), target


def test_every_page_forbids_other_sources(evil_site: Path) -> None:
    for path in evil_site.rglob("*.html"):
        policies = [
            attrs
            for tag, attrs in Page(path.read_text()).tags
            if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        assert len(policies) == 1 and policies[0]["content"].startswith("default-src 'none';")
        assert "unsafe" not in policies[0]["content"] and "http" not in policies[0]["content"]


def test_files_have_safe_names(evil_site: Path) -> None:
    for path in evil_site.rglob("*"):
        assert re.fullmatch(r"[a-z0-9.-]+", path.name), path


def test_static_scripts_never_parse_html() -> None:
    for path in (Path(leaderboard.__file__).parent / "site" / "static").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|fetch\(|https?://",
            text,
        )


def test_a_folder_that_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    boards = boards_of(tmp_path / "results", MadeRun("a", rows=("PIQA",)))
    mine = tmp_path / "site"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not made by"):
        write_site(mine, boards, [], True)
    assert (mine / "thesis.txt").is_file()


def test_a_site_is_replaced_whole(tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_site(site, boards_of(tmp_path / "one", MadeRun("first", rows=("PIQA",))), [], True)
    old = {path.name for path in (site / "models").iterdir()}
    write_site(site, boards_of(tmp_path / "two", MadeRun("second", rows=("PIQA",))), [], False)
    assert not old & {path.name for path in (site / "models").iterdir()}
    assert (site / MARK).is_file() and not (site / "data").exists() and not (site / "samples.html").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_samples_no_text_of_the_data_is_in_the_site(tmp_path: Path) -> None:
    boards = boards_of(tmp_path / "r", MadeRun("a", output="secret answer"))
    site = write_site(tmp_path / "site", boards, [], False)
    text = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*") if path.is_file())
    assert "secret answer" not in text and "number 3 is near" not in text


def test_pages_show_the_uncertainty_and_docs_of_every_value(tmp_path: Path) -> None:
    boards = boards_of(tmp_path / "r", MadeRun("a"), MadeRun("b"))
    site = write_site(tmp_path / "site", boards, [], False)
    text = (site / "index.html").read_text(encoding="utf-8")
    row = boards[0].rows[0]
    low, high = statistics.row_interval(row.metric, 1, row.estimate)
    assert f"{low:.1f} to {high:.1f}" in text and "n 40" in text
    assert text.count('class="value"') == text.count('class="half"') == 2 * (1 + 9)


def test_whatever_stands_in_run_json_is_one_line_or_a_page(tmp_path: Path) -> None:
    """Fields that reading does not check are damaged at random: exit 0 or 2, never a traceback."""
    folder = make_run(tmp_path / "results", MadeRun("a", rows=("PIQA",), size=4))
    whole = (folder / "run.json").read_text(encoding="utf-8")
    draw = random.Random(0)
    for _ in range(100):
        run = json.loads(whole)
        node: Any = run
        while isinstance(node, dict | list) and node:
            parent, key = node, draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = parent[key]
            if draw.random() < 0.25:
                break
        parent[key] = draw.choice([None, True, -1, 10**400, 1e308, "", EVIL, [], [None, {}], {}, {"a": []}])
        (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
        args = [
            "leaderboard",
            str(tmp_path / "results"),
            "--output",
            str(tmp_path / "out"),
            "--no-samples",
            "--debug",
        ]
        try:
            assert cli.main(args) == 0
        except UserError as error:
            assert "\n" not in str(error)
