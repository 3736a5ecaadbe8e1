"""The report in a real browser: no errors, no requests, it sorts, and it fits phone and desktop."""

import os
import shutil
from dataclasses import replace

import pytest
import servers
from test_report import EVIL, made

from ensemble.report import html

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"phone": (360, 740), "tablet": (820, 1100), "desktop": (1440, 900)}


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; where there is none the tests are left out, but not in CI."""
    servers.need("playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        told = f"the report is tested in a browser, however none of {', '.join(BROWSERS)} is there"
        pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report whose data have a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    comparison, histories = made(folder, "digits", seeds=6, metric=["accuracy", "nll"])
    path = folder / "report.html"
    path.write_text(html(replace(comparison, data=EVIL), histories), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, report, request):
    """The report as it is loaded, and what the browser said and asked for meanwhile."""
    size = getattr(request, "param", "desktop")
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: page.said.append(dialog.message))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    context.close()


def column(page, place):
    """What the cells of a column are sorted by."""
    cells = page.locator(f"table.candidates tbody tr > :nth-child({place})")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_it_loads_without_a_word_and_asks_for_nothing(page, report):
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.images.length") == 0
    assert page.locator("h1").inner_text().startswith("<script>alert(1)</script>")


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_it_fits_without_scrolling_sideways(page):
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    width = page.evaluate("innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """width => [...document.querySelectorAll("body *")].filter(one =>
            !one.closest(".numbers, svg") && one.getBoundingClientRect().right > width + 0.5
        ).map(one => one.outerHTML.slice(0, 80))""",
        width,
    )
    assert wide == []
    assert page.evaluate(
        """[...document.querySelectorAll(".sortable")].every(
            one => one.scrollWidth <= one.clientWidth)"""
    )


@pytest.mark.parametrize("page", ["desktop", "phone"], indirect=True)
def test_a_heading_sorts_by_its_column_by_mouse_and_by_key(page):
    head = page.locator("table.candidates thead button", has_text="brier")
    place = 1 + page.locator("table.candidates thead button").all_inner_texts().index("brier")
    values = sorted(map(float, column(page, place)))
    head.click()
    assert list(map(float, column(page, place))) == values[::-1]
    head.focus()
    page.keyboard.press("Enter")
    assert list(map(float, column(page, place))) == values
    assert page.locator("[aria-sort]").get_attribute("aria-sort") == "ascending"
    params = 1 + page.locator("table.candidates thead button").all_inner_texts().index("params")
    page.locator("table.candidates thead button", has_text="params").click()
    assert column(page, params)[-2:] == ["", ""]  # the mean and the oracle have none
    assert page.said == []


def test_figures_open_their_numbers_by_key(page):
    page.locator("#growth summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#growth td").first.is_visible()
    assert page.locator("#growth tbody tr").count() == 6


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    if (one.matches(".cell")) {
      const style = getComputedStyle(one.previousElementSibling);
      const [heat, card] = [style.fill, ground(one.parentElement)].map((c) => c.match(/\\d+/g));
      return `rgb(${heat.map((v, i) => Number(card[i]) + (v - card[i]) * style.fillOpacity)})`;
    }
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const told = [];
  for (const one of document.querySelectorAll("body *")) {
    const text = [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || one.closest("script, style, title, desc")) continue;
    const style = getComputedStyle(one);
    const [a, b] = [one.closest("svg") ? style.fill : style.color, ground(one)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) told.push([one.outerHTML.slice(0, 80), ratio]);
  }
  return told;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(page, scheme):
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    page.emulate_media(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 19, 22)") == (scheme == "dark")
    assert page.evaluate(CONTRAST) == []


def test_paper_shows_the_numbers_on_white(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#growth td").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#growth td").first.is_visible()


def test_paper_keeps_the_table_of_candidates_and_no_cell_is_broken(page):
    page.set_viewport_size({"width": 702, "height": 1000})  # A4 without its margins
    page.emulate_media(media="print")
    row = page.locator("table.candidates tbody tr").first
    assert row.evaluate("one => getComputedStyle(one).display") == "table-row"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    edges = "one => one.getBoundingClientRect().left"
    table, dot = page.locator("table.candidates"), page.locator("table.candidates .swatch").first
    assert dot.evaluate(edges) >= table.evaluate(edges)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    broken = """[...document.querySelectorAll(".numbers td")].filter(
        one => /^[-+.\\d]+$/.test(one.innerText) && one.clientHeight > 30).length"""
    assert page.evaluate(broken) == 0
