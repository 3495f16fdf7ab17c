"""The sample browser in headless Chromium: 50,000 samples, two runs side by side, hostile text."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals import cli
from tests.support import toy
from tests.support.browser import SIZES, Page, Site, browser, names, page, site

__all__ = ["browser", "page", "site"]  # fixtures
pytestmark = pytest.mark.browser


# --- samples ----------------------------------------------------------------------------------------------------------


def test_the_list_is_moved_through_with_the_keyboard(site: Site, page: Page) -> None:
    total = sum(SIZES.values())
    page.samples(site)
    page.ready(f"{total:,} of {total:,} docs")
    page.run("document.getElementById('list').focus()")
    page.keys("\ue010")  # End
    last = page.until(lambda: page.all("[role=option][aria-selected=true]"))[0]
    assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize") == str(total)
    page.keys("\ue011", "\ue015", "\ue007")  # Home, Down, Enter
    page.until(lambda: page.find("#detail").is_displayed())
    shown = site.samples["alpha"]["hellaswag"]["doc_id"]
    assert page.find("#detail-title").text == f"hellaswag · doc {shown[1]}"
    assert page.run("return document.activeElement.id") == "detail-title"
    page.find("#next").click()
    page.until(lambda: page.find("#detail-title").text == f"hellaswag · doc {shown[2]}")
    page.keys("\ue00c")  # Esc
    page.until(lambda: not page.find("#detail").is_displayed())
    assert page.run("return document.activeElement.id") == "list"
    page.keys("/")
    assert page.run("return document.activeElement.id") == "query"


def test_two_runs_are_compared(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("run-b", "beta")
    one, two = site.scores("alpha"), site.scores("beta")
    pairs, total = list(zip(one, two, strict=True)), len(one)
    counts = {"A and B differ": sum(a != b for a, b in pairs), "A beats B": sum(a > b for a, b in pairs)}
    counts |= {"B beats A": sum(b > a for a, b in pairs), "Both wrong": sum(a + b == 0 for a, b in pairs)}
    for filter_, count in counts.items():
        page.choose("show", filter_)
        page.ready(f"{count:,} of {total:,} docs")
    page.choose("show", "B beats A")
    page.choose("task", "gsm8k")
    tasks = [site.samples[model]["gsm8k"] for model in ("alpha", "beta")]
    scores = [columns["final_answer_match"] for columns in tasks]
    beaten = [k for k, (a, b) in enumerate(zip(*scores, strict=True)) if b > a]
    page.ready(f"{len(beaten):,} of {SIZES['gsm8k']:,} docs")
    page.row(1).click()
    page.until(lambda: page.find("#detail").is_displayed())
    outputs = [answer.text for answer in page.all("#detail .answer pre")]
    assert [text.strip() for text in outputs] == [c["output"][beaten[0]].strip() for c in tasks]
    assert page.find(".states").text.split() == ["A", "✗", "wrong", "B", "✓", "right"]
    page.find("#swap").click()
    page.until(lambda: page.find("#run-a").get_attribute("value").startswith("beta"))
    page.ready(
        f"{len(beaten) - sum(b - a for a, b in zip(*scores, strict=True)):,} of {SIZES['gsm8k']:,} docs"
    )


def test_scores_that_are_no_right_or_wrong_are_compared_the_right_way_round(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = toy.register(monkeypatch)
    for name, quarters, level in (("a", 1, 0.7), ("b", 3, 1.3)):
        toy.made(tmp_path / "r", card, name, quarters, level)
    assert cli.main(["leaderboard", str(tmp_path / "r"), "--format", "site"]) == 0
    page.samples(Site(tmp_path / "r" / "leaderboard" / "site", {}))
    page.choose("run-a", "a")
    page.choose("run-b", "b")
    for task, counts in {
        "– toy_prose": {"A beats B": 200, "B beats A": 0, "A right": 0, "A wrong": 0},  # bits: less is better
        "toy_words": {"A beats B": 0, "B beats A": 200, "A right": 0, "A wrong": 67},  # F1: 0 is wrong
    }.items():
        page.choose("task", task)
        for filter_, count in counts.items():
            page.choose("show", filter_)
            page.ready(f"{count} of 200 docs")


def test_a_limited_run_is_compared_on_the_docs_it_has(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("run-b", "brief")
    page.until(lambda: len(page.options("show")) == 8)
    counts = {}
    for text in page.options("show"):
        name, _, count = text.partition(" (")
        counts[name] = int(count.rstrip(")").replace(",", ""))
    assert counts["All docs"] == sum(SIZES.values())
    assert counts["Both right"] + counts["Both wrong"] + counts["A and B differ"] == 100 * len(SIZES)
    assert counts["A beats B"] + counts["B beats A"] == counts["A and B differ"]


def test_the_address_keeps_what_is_shown(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("run-b", "beta")
    page.choose("task", "piqa")
    page.choose("show", "A beats B")
    page.until(lambda: f"of {SIZES['piqa']:,}" in page.status())
    page.row(4).click()
    page.until(lambda: page.find("#detail").is_displayed())
    title, status, url = page.find("#detail-title").text, page.status(), page.browser.current_url
    page.open(url)
    page.until(lambda: page.all("#detail:not([hidden])"))
    assert (page.find("#detail-title").text, page.status()) == (title, status)


def test_hostile_text_is_shown_as_text(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("suite", "Instruct")
    page.choose("run-a", "hostile")
    page.choose("task", "gsm8k")
    page.ready("40 of 40 docs")
    page.find("#query").send_keys("onerror")
    page.until(lambda: "of 40 docs" in page.status() and not page.status().startswith("40"))
    page.row(1).click()
    page.until(lambda: page.find("#detail").is_displayed())
    assert "<script>window.broken = 1</script><img src=x onerror=" in page.find("#detail .answer pre").text
    assert [mark.text for mark in page.all("#detail .answer mark")] == ["onerror"]
    page.open(site.url("index.html"))
    assert any("<script>window.broken" in name for table in (0, 1, 2) for name in names(page, table))
    for path in ("samples.html", "index.html", site.page_of("models/script-window-broken-*.html")):
        page.open(site.url(path))
        assert page.run("return [window.broken, document.images.length]") == [None, 0]


def test_ratings_and_what_judges_wrote_are_shown(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("suite", "Instruct")
    page.choose("run-a", "hostile")
    page.choose("run-b", "<script>")
    page.choose("task", "mt_bench")
    page.choose("show", "A beats B")
    page.ready("40 of 40 docs")
    page.until(lambda: page.row(1).text.split()[-2:] == ["8", "7"])  # means of 7 and 9, of 5 and 9
    page.row(1).click()
    page.until(lambda: page.find("#detail").is_displayed())
    summaries = page.all("#detail summary")
    assert [one.text.split(" by ")[0] for one in summaries] == [
        "rated 7",
        "rated 5",
        "no rating",
        "no rating",
    ]
    assert all("<script>window.broken" in one.text for one in summaries)
    summaries[0].click()
    assert page.all("#detail details pre")[0].text == "<b>good</b>"


def test_the_policy_stops_what_would_leave_the_disk(site: Site, page: Page) -> None:
    page.open(site.url("index.html"))
    stopped = page.browser.execute_async_script(
        "const done = arguments[0]; addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));"
        "new Image().src = 'http://127.0.0.1:9/';"
    )
    assert stopped == "img-src"
    assert any("Content Security Policy" in line for line in page.errors())


def test_lines_begin_at_the_question_and_groups_are_chosen(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("task", "mmlu")
    columns = site.samples["alpha"]["mmlu"]
    page.ready(f"{len(columns['group']):,} of {len(columns['group']):,} docs")
    page.until(lambda: page.row(1).text.startswith("The ") and "number 0" in page.row(1).text)
    assert page.options("group") == ["All (3)", "art", "law", "physics"]
    page.choose("group", "law")
    page.ready(f"{columns['group'].count('law'):,} of {len(columns['group']):,} docs")
    page.choose("task", "gsm8k")
    page.until(lambda: "number 0 is near" in page.row(1).text)
    assert "What is 1 plus 1" not in page.row(1).text and not page.find("#group").is_displayed()
    assert all(" · 2026-" in text for text in page.options("run-a"))
