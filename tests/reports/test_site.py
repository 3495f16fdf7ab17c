"""The site in headless Chromium: sorting, 50,000 samples, two runs side by side, hostile text, narrow and dark."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evals import cli
from evals.core.card import load_card
from tests.support import toy
from tests.support.site_runs import MadeRun, edit_run, judge, make_run, read_samples

pytestmark = pytest.mark.browser

HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'></script><!--\u2028"
SIZES = {"hellaswag": 10_042, "mmlu": 14_042, "trivia_qa": 17_944, "arc_easy": 2_376, "arc_challenge": 1_172}
SIZES |= {"piqa": 1_838, "commonsense_qa": 1_221, "winogrande": 1_267, "openbook_qa": 500, "gsm8k": 1_319}
LONGEST_TASK = 1_000  # milliseconds without an answer to the reader; measured: 70 on two busy cores
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)
FLAGS += ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")


@dataclass(frozen=True)
class Site:
    """A built site, and the columns of the two large runs: {model: {task: columns}}."""

    folder: Path
    samples: dict[str, dict[str, dict[str, list[Any]]]]

    def url(self, page: str) -> str:
        return f"{self.folder.as_uri()}/{page}"

    def page_of(self, pattern: str) -> str:
        (path,) = self.folder.glob(pattern)
        return path.relative_to(self.folder).as_posix()

    def scores(self, model: str) -> list[int]:
        """Right or wrong of every doc, in the order of the card's rows."""
        tasks, columns = self.samples[model], []
        for task in load_card("base").tasks:
            metric = {"trivia_qa": "alias_match", "gsm8k": "final_answer_match"}.get(task, "acc_norm_nospace")
            columns += tasks[task][metric]
        return columns


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    results = tmp_path_factory.mktemp("site") / "results"
    large = [MadeRun("alpha", skill=0.55, sizes=SIZES), MadeRun("beta", skill=0.45, sizes=SIZES)]
    folders = {made.model: make_run(results, made) for made in large}
    make_run(results, MadeRun("brief", sizes=SIZES, limit=100))
    for name, output, rating in (("hostile", HOSTILE, 7.0), ("plain", "", 5.0)):
        folder = make_run(results, MadeRun(name, suite="instruct", output=output, missing=["HellaSwag"]))
        judge(folder, f"judge {HOSTILE}", rating)
    edit_run(folder, lambda run: run["model"].update(name=HOSTILE))
    assert cli.main(["leaderboard", str(results), "--format", "site"]) == 0
    samples = {
        model: {task: read_samples(folder, task) for task in load_card("base").tasks}
        for model, folder in folders.items()
    }
    return Site(results / "leaderboard" / "site", samples)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium with a profile of its own, driven by selenium; skips where either is absent."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    chrome = webdriver.Chrome(options=options, service=service)
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    """A window of 1280 by 800 in light colours; afterwards, no console error and no request off this disk."""
    wrapped = Page(browser)
    wrapped.resize(1280, 800)
    wrapped.colours("light")
    yield wrapped
    assert wrapped.errors() == []
    assert wrapped.requests() and all(url.startswith(("file://", "data:,")) for url in wrapped.requests())


OPTION = (
    "return [...document.querySelectorAll('#' + arguments[0] + ' option')]"
    ".find((option) => option.text.startsWith(arguments[1]))"
)


class Page:
    """What a reader does on a page, and what they see."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.browser.get_log("browser")
        self.browser.get_log("performance")
        self._requests: dict[str, str] = {}

    def open(self, url: str) -> None:
        self.browser.get("about:blank")  # so that another #fragment is another visit
        self.browser.get(url)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def colours(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def choose(self, control: str, start: str) -> None:
        """Picks the option of a select whose text begins so."""
        self.until(lambda: any(text.startswith(start) for text in self.options(control)))
        self.run(OPTION, control, start).click()

    def options(self, control: str) -> list[str]:
        """The texts of a select's options."""
        script = "return [...document.querySelectorAll('#' + arguments[0] + ' option')].map((o) => o.text)"
        return list(self.run(script, control))

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def until(self, test: Callable[[], Any], seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (value := test()):
            assert time.monotonic() < end, f"waited {seconds} s in vain; the status is {self.status()!r}"
            time.sleep(0.05)
        return value

    def status(self) -> str:
        found = self.all("#status")
        return found[0].text if found else ""

    def ready(self, status: str) -> None:
        self.until(lambda: self.status() == status)

    def errors(self) -> list[str]:
        return [line["message"] for line in self.browser.get_log("browser") if line["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Addresses asked for, less those that the page's own policy stopped."""
        for line in self.browser.get_log("performance"):
            message = json.loads(line["message"])["message"]
            details = message["params"]
            if message["method"] == "Network.requestWillBeSent" and details["documentURL"].startswith(
                "file:"
            ):
                self._requests[details["requestId"]] = details["request"]["url"]
            elif message["method"] == "Network.loadingFailed" and details.get("blockedReason") == "csp":
                self._requests.pop(details["requestId"], None)
        return list(self._requests.values())

    def row(self, position: int) -> Any:
        """The list's row at a position (from 1), once it is drawn."""
        return self.until(lambda: self.all(f"#list [aria-posinset='{position}']:not([hidden])"))[0]

    def samples(self, site: Site, fragment: str = "") -> None:
        self.open(site.url("samples.html") + fragment)
        self.until(lambda: self.find("#browser").is_displayed())


def names(page: Page, table: int = 0) -> list[str]:
    return [
        link.text for link in page.all("table.ranking")[table].find_elements("css selector", "tbody th a")
    ]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_tables_sort_by_mouse_and_by_keyboard(site: Site, page: Page) -> None:
    page.open(site.url("index.html"))
    assert names(page) == ["alpha", "beta"]
    headers = page.all("table.ranking")[0].find_elements("css selector", "thead th")
    assert headers[0].get_attribute("aria-sort") == "ascending"
    headers[2].find_element("css selector", "button").click()
    assert headers[2].get_attribute("aria-sort") == "descending" and names(page) == ["alpha", "beta"]
    assert headers[0].get_attribute("aria-sort") == "none"
    page.keys("\ue007")  # Enter on the focused header
    assert headers[2].get_attribute("aria-sort") == "ascending" and names(page) == ["beta", "alpha"]
    headers[1].find_element("css selector", "button").click()
    assert headers[1].get_attribute("aria-sort") == "ascending" and names(page) == ["alpha", "beta"]


def test_values_without_a_number_sort_last(site: Site, page: Page) -> None:
    page.open(site.url(site.page_of("models/hostile-*.html")))
    table = page.all("table")[0]
    value = table.find_elements("css selector", "thead button")[1]
    for _ in range(2):
        value.click()
        last = table.find_elements("css selector", "tbody tr")[-1]
        assert last.find_element("css selector", "th").text == "HellaSwag"


def test_every_page_is_quiet_and_fits_a_narrow_window(site: Site, page: Page) -> None:
    page.resize(360, 740)
    paths = sorted(path.relative_to(site.folder).as_posix() for path in site.folder.rglob("*.html"))
    assert len(paths) > 40
    chosen = [path for path in paths if not path.startswith("tasks/bbh")]
    for path in chosen:
        page.open(site.url(path))
        width = page.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], path
        assert page.find("main").text.strip(), path


# --- samples ----------------------------------------------------------------------------------------------------------


def test_fifty_thousand_samples_filter_and_open(site: Site, page: Page) -> None:
    page.samples(site)
    total, right = sum(SIZES.values()), sum(site.scores("alpha"))
    assert total > 50_000
    page.ready(f"{total:,} of {total:,} docs")
    assert len(page.all("[role=option]")) < 60
    page.choose("show", "A wrong")
    page.ready(f"{total - right:,} of {total:,} docs")
    page.until(lambda: "number" in page.row(1).text)
    page.row(1).click()
    page.until(lambda: page.find("#detail").is_displayed())
    columns = site.samples["alpha"]["hellaswag"]
    first = columns["acc_norm_nospace"].index(0)
    assert page.find("#detail-title").text == f"hellaswag · doc {columns['doc_id'][first]}"
    text = page.find("#detail-body").text
    assert columns["prompt"][first] in text and "A’s pick" in text and "correct" in text
    assert all(choice.strip() in text for choice in columns["choices"][first])


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
    page.ready(f"{len(beaten):,} of 1,319 docs")
    page.row(1).click()
    page.until(lambda: page.find("#detail").is_displayed())
    outputs = [answer.text for answer in page.all("#detail .answer pre")]
    assert [text.strip() for text in outputs] == [c["output"][beaten[0]].strip() for c in tasks]
    assert page.find(".states").text.split() == ["A", "✗", "wrong", "B", "✓", "right"]
    page.find("#swap").click()
    page.until(lambda: page.find("#run-a").get_attribute("value").startswith("beta"))
    page.ready(f"{len(beaten) - sum(b - a for a, b in zip(*scores, strict=True)):,} of 1,319 docs")


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


def test_text_search_finds_all_and_never_freezes(site: Site, page: Page) -> None:
    total = sum(SIZES.values())
    page.samples(site)
    page.ready(f"{total:,} of {total:,} docs")
    page.run(
        "window.longest = 0; new PerformanceObserver((list) => { for (const task of list.getEntries())"
        " longest = Math.max(longest, task.duration); }).observe({ type: 'longtask' });"
    )
    columns = [c for task in site.samples["alpha"].values() for c in zip(*_texts(task), strict=True)]
    for query, words in (('"number 1234 "', ["number 1234 "]), ("CAFÉ winter", ["café", "winter"])):
        box = page.find("#query")
        box.clear()
        box.send_keys(query)
        expected = sum(all(word in " ".join(texts).lower() for word in words) for texts in columns)
        assert expected > 0
        page.ready(f"{expected:,} of {total:,} docs")
    assert page.run("return longest") < LONGEST_TASK


def _texts(columns: dict[str, list[Any]]) -> list[list[str]]:
    """The columns of a task that the browser searches in, as texts."""
    texts = [columns[name] for name in ("prompt", "output") if name in columns]
    for name in ("choices", "gold"):
        if name in columns and isinstance(columns[name][0], list):
            texts.append([" ".join(items) for items in columns[name]])
    return texts


def test_the_address_keeps_what_is_shown(site: Site, page: Page) -> None:
    page.samples(site)
    page.choose("run-b", "beta")
    page.choose("task", "piqa")
    page.choose("show", "A beats B")
    page.until(lambda: "of 1,838" in page.status())
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


# --- looks ------------------------------------------------------------------------------------------------------------


def test_on_a_narrow_window_a_sample_takes_all_of_it(site: Site, page: Page) -> None:
    page.resize(360, 740)
    page.samples(site)
    page.row(1).click()
    page.until(lambda: page.find("#detail").is_displayed())
    box = page.run(
        "const r = document.getElementById('detail').getBoundingClientRect(); return [r.x, r.y, r.width]"
    )
    assert box == [0, 0, 360]
    page.find("#close").click()
    assert not page.find("#detail").is_displayed()


def test_dark_follows_the_system_and_the_toggle_is_kept(site: Site, page: Page) -> None:
    lightness = (
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
    )
    page.open(site.url("index.html"))
    assert page.run(lightness) > 600
    page.colours("dark")
    assert page.run(lightness) < 150
    page.find("[data-theme-toggle]").click()
    assert page.run(lightness) > 600
    page.open(site.url("tasks/index.html"))
    assert page.run(lightness) > 600
    page.run("localStorage.clear()")


def test_text_is_legible_in_both_colours(site: Site, page: Page) -> None:
    """WCAG 2 contrast of at least 4.5 for the quiet text and the two runs' hues, on each ground they stand on."""
    for scheme in ("light", "dark"):
        page.colours(scheme)
        page.open(site.url("index.html"))
        for name in ("ink", "soft", "accent", "a", "b", "right", "wrong", "caution"):
            for ground in ("paper", "raised", "sunk"):
                colours = [page.run(COLOUR, f"var(--{one})") for one in (name, ground)]
                bright, dark = sorted(map(luminance, colours), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, name, ground)


COLOUR = (
    "const p = document.createElement('p'); document.body.append(p); p.style.color = arguments[0];"
    "const c = getComputedStyle(p).color.match(/[\\d.]+/g).slice(0, 3).map(Number); p.remove(); return c"
)


def luminance(colour: list[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2)."""
    shares = [value / 255 for value in colour]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
