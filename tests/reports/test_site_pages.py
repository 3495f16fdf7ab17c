"""The site's pages as files: nothing breaks out, links lead to files, every number with its uncertainty."""

from __future__ import annotations

import html.parser
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from evals import cli
from evals.core import statistics
from evals.core.card import load_card
from evals.core.errors import UserError
from reports import leaderboard
from reports.boards import build_boards
from reports.runs import load_run
from reports.site.build import MARK, write_site
from tests.support.site_runs import EVIL, MadeRun, boards_of, edit_run, make_run


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


def texts_of(path: Path) -> str:
    return " ".join(" ".join(Page(path.read_text(encoding="utf-8")).texts).split())


def test_published_columns_stand_beside_whole_measurements_only(tmp_path: Path) -> None:
    boards = boards_of(tmp_path / "r", MadeRun("whole"), MadeRun("part", limit=5))
    site = write_site(tmp_path / "site", boards, [], False)
    whole, part = (site / "index.html").read_text(encoding="utf-8").split("Partial measurements", 1)
    models = load_card("base").models
    assert whole.count('class="printed"') == len(models) and 'class="printed"' not in part
    assert "published, no error" in whole and ">54.5<" in whole
    printed = [float(row.published["SmolLM2-360M"]) for row in load_card("base").rows]
    assert f">{sum(printed) / len(printed):.1f}<" in whole


def test_quantised_and_plain_runs_are_compared(tmp_path: Path) -> None:
    made = [
        MadeRun("m", size=100),
        MadeRun("m", skill=0.2, quantization="Q4_1", time="20260103T030405Z", size=100),
    ]
    boards = boards_of(tmp_path / "r", *made)
    site = write_site(tmp_path / "site", boards, [], False)
    text = texts_of(site / "compare.html")
    assert "what quantising cost" in text and "B is worse in 9 of 9 rows, better in 0" in text
    assert "not the same measurement: quantization none against Q4_1" in text and "Holm over 9" in text
    for page in (site / "models").glob("*.html"):
        assert "Compared with m · " in texts_of(page)


def test_checkpoints_have_a_page_of_curves(tmp_path: Path) -> None:
    boards = boards_of(
        tmp_path / "r", *(MadeRun(f"run-step-{k}", skill=0.2 * k) for k in (1, 2, 3)), MadeRun("x")
    )
    site = write_site(tmp_path / "site", boards, [], False)
    text = (site / "curve.html").read_text(encoding="utf-8")
    assert text.count('class="curve"') == 9 and text.count("step 2: ") == 9 and "n = 40" in text
    assert "Base models: run" in text and 'href="curve.html"' in (site / "index.html").read_text()
    alone = write_site(tmp_path / "alone", boards_of(tmp_path / "a", MadeRun("x")), [], False)
    assert not (alone / "curve.html").exists() and not (alone / "compare.html").exists()


def test_downloads_and_the_footer(tmp_path: Path) -> None:
    make_run(tmp_path / "results", MadeRun("a"))
    assert cli.main(["leaderboard", str(tmp_path / "results"), "--no-samples"]) == 0
    out = tmp_path / "results" / "leaderboard"
    assert (out / "site" / "leaderboard.csv").read_bytes() == (out / "leaderboard.csv").read_bytes()
    assert (out / "site" / "leaderboard.md").read_bytes() == (out / "LEADERBOARD.md").read_bytes()
    for page in (out / "site").rglob("*.html"):
        assert re.search(r"Made with smol-evals [^,]*, \d{4}-\d\d-\d\d\. How to read this", texts_of(page)), (
            page
        )


def test_groups_and_items_have_tables_of_their_own(tmp_path: Path) -> None:
    boards = boards_of(tmp_path / "r", MadeRun("a", size=30), MadeRun("b", suite="instruct", size=30))
    site = write_site(tmp_path / "site", boards, [], False)
    (mmlu,), (ifeval,) = (list((site / "tasks").glob(f"{name}-*.html")) for name in ("mmlu", "ifeval"))
    text = texts_of(mmlu)
    assert "By group: acc_norm_nospace (3)" in text
    columns = boards[0].entries[0].run.columns("mmlu")
    law = [
        s for s, group in zip(columns["acc_norm_nospace"], columns["group"], strict=True) if group == "law"
    ]
    assert f"law 10 {100 * sum(law) / 10:.1f}" in text
    text = texts_of(ifeval)
    assert "By item: inst_level_strict_acc (2)" in text and "no_commas 30" in text and "two_lines 30" in text


def test_the_time_taken_is_from_started_to_finished(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", MadeRun("a"))
    edit_run(
        folder,
        lambda r: r["provenance"].update(started="2026-01-02T03:00:00Z", finished="2026-01-02T04:01:00Z"),
    )
    site = write_site(tmp_path / "site", build_boards([load_run(folder)]), [], False)
    assert "Time taken 3,660 s" in texts_of(next((site / "models").glob("*.html")))


def test_samples_can_be_few(tmp_path: Path) -> None:
    rows = ("HellaSwag", "GSM8K (5-shot)")
    boards = boards_of(tmp_path / "r", *(MadeRun(name, rows=rows, size=300) for name in "ab"))
    whole, few = (write_site(tmp_path / str(most), boards, [], True, most) for most in (None, 5))
    sizes = [sum(path.stat().st_size for path in (site / "data").rglob("*.js")) for site in (whole, few)]
    assert sizes[1] < sizes[0] / 2
    with pytest.raises(UserError, match="--samples 0: it must be positive"):
        cli.main(["leaderboard", str(tmp_path / "r"), "--samples", "0", "--debug"])


def test_a_task_and_its_docs_are_never_torn_apart(tmp_path: Path) -> None:
    site = write_site(tmp_path / "site", boards_of(tmp_path / "r", MadeRun("a", rows=("PIQA",))), [], False)
    text = (site / "tasks" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<span class="task"><a [^>]*>piqa</a><span class="count">40</span></span>', text)
    css = (Path(leaderboard.__file__).parent / "site" / "static" / "style.css").read_text()
    assert re.search(r"\.count \{[^}]*white-space: nowrap", css)
