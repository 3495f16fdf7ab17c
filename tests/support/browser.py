"""The leaderboard's site in headless Chromium: what a reader does on a page and sees; fixtures that build one."""

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
from tests.support.site_runs import MadeRun, edit_run, judge, make_run, read_samples

HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'></script><!--\u2028"
OFFICIAL = {
    "hellaswag": 10_042,
    "mmlu": 14_042,
    "trivia_qa": 17_944,
    "arc_easy": 2_376,
    "arc_challenge": 1_172,
}
OFFICIAL |= {"piqa": 1_838, "commonsense_qa": 1_221, "winogrande": 1_267, "openbook_qa": 500, "gsm8k": 1_319}
SIZES = {task: docs // 5 for task, docs in OFFICIAL.items()}
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
    return build_site(tmp_path_factory.mktemp("site") / "results", SIZES)


def build_site(results: Path, sizes: dict[str, int]) -> Site:
    large = [MadeRun("alpha", skill=0.55, sizes=sizes), MadeRun("beta", skill=0.45, sizes=sizes)]
    folders = {made.model: make_run(results, made) for made in large}
    make_run(results, MadeRun("brief", sizes=sizes, limit=100))
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
        # a busy machine's browser comes back before the page is there
        arrived = "return location.href !== 'about:blank' && document.readyState === 'complete'"
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 60).until(lambda browser: browser.execute_script(arrived))

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
