"""The site in headless Chromium: sorting, filtering, columns, narrow and dark windows."""

from __future__ import annotations

import pytest

from tests.support.browser import Page, Site, browser, names, page, site

__all__ = ["browser", "page", "site"]  # fixtures
pytestmark = pytest.mark.browser
CELLS = (
    "return [...document.querySelector('table.ranking').rows]"
    ".map((row) => [...row.cells].filter((cell) => !cell.hidden).length)"
)


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


@pytest.mark.slow
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


def test_models_are_filtered_and_columns_hidden(site: Site, page: Page) -> None:
    page.open(site.url("index.html"))
    box = page.find("[data-filter] input")
    box.send_keys("ALPH")
    assert [name for name in names(page) if name] == ["alpha"]  # what is hidden has no text
    box.clear()
    box.send_keys("x")
    assert [name for name in names(page) if name] == []
    box.clear()
    box.send_keys(" ")
    assert names(page) == ["alpha", "beta"]
    page.find("[data-columns] summary").click()
    boxes = page.all(".board:first-of-type [data-columns] input")
    before = page.run(CELLS)
    boxes[1].click()
    assert page.run(CELLS) == [count - 1 for count in before]


def test_a_pair_that_an_address_names_is_open(site: Site, page: Page) -> None:
    page.open(site.url("compare.html"))
    (pair, *_) = [one.get_attribute("id") for one in page.all("details.pair") if one.get_attribute("id")]
    assert page.all("details[open]") == []
    page.open(site.url(f"compare.html#{pair}"))
    assert [one.get_attribute("id") for one in page.all("details[open]")] == [pair]


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
