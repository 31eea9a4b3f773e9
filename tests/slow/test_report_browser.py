"""The HTML report in a real browser: it asks for nothing, and explains its cells to everyone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from remote_mi.report.document.content import build_report
from remote_mi.report.document.html import html

from ..fast.report.pages import hostile_report
from ..fast.report.shown import HOSTILE, kept, result
from .browser import Page, browser, chromium

GRID = "document.querySelectorAll('table[role=grid]')"
CELL = f"{GRID}[0].tBodies[0].rows[{{}}].cells[{{}}]"
SAID = "document.querySelector('.readout.live').textContent"
FOCUS = "document.activeElement"


@pytest.fixture(scope="module", autouse=True)
def _there() -> None:
    chromium()


@pytest.fixture
def opened(project: Path, tmp_path: Path):
    """A function that opens the report of a result in a new browser."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def show(found, **more) -> Page:
            run = kept(project, found)
            path = tmp_path / "report.html"
            path.write_text(html(build_report(project, [run.path]), **more), encoding="utf-8")
            page = stack.enter_context(browser(tmp_path))
            page.size(1200, 900)
            page.open(path)
            return page

        yield show


@pytest.mark.timeout(120)
def test_a_cell_explains_itself_by_mouse_and_by_keyboard(opened):
    found = result()
    page = opened(found)
    effect = found["effect"]
    page.hover(CELL.format(2, 3))  # the last layer is on top: layer 1, position 2
    value, low, high = (float(a[1, 2]) for a in (effect.values, effect.low, effect.high))
    assert (
        page.evaluate(SAID)
        .replace("␣", "␠")
        .startswith(
            f"layer 1 · position 2 ␠and: effect {value:.2f} nats, 95% CI [{low:.2f}, {high:.2f}], "
            f"n=3, control up to {found.control_band('effect')[1, 2]:.2f}"
        )
    )
    page.evaluate(f"{CELL.format(0, 1)}.focus()")
    seen = []
    for key in ("ArrowRight", "ArrowDown", "End", "Home", "PageDown", "PageUp", "g"):
        page.press(key)
        seen.append(page.evaluate(f"[{FOCUS}.parentNode.dataset.r, {FOCUS}.cellIndex - 1]"))
    assert [(int(r), c) for r, c in seen] == [
        (3, 1),
        (2, 1),
        (2, 3),
        (2, 0),
        (0, 0),
        (3, 0),
        (1, 2),
    ]
    assert page.evaluate(f"{FOCUS}.getAttribute('aria-label')") == page.evaluate(SAID)
    assert page.evaluate(f"{GRID}[0].querySelectorAll('td[tabindex=\"0\"]').length") == 1
    assert page.evaluate(f"{GRID}[0].querySelectorAll('th.on').length") == 2
    page.press("Tab")
    assert page.evaluate(f"{FOCUS}.closest('table') !== {GRID}[0]"), "Tab leaves the figure"
    assert not page.said


@pytest.mark.timeout(120)
def test_another_slice_shows_its_own_numbers(opened):
    found = result()
    page = opened(found)
    pattern = found["pattern"].values
    choice = "document.querySelector('.choices select')"
    assert not page.evaluate("document.querySelector('.choices').hidden")
    page.evaluate(f"{choice}.value = '2'; {choice}.dispatchEvent(new Event('change'))")
    shown = page.evaluate(
        f"[...{GRID}[1].tBodies[0].rows].map(r => [...r.cells].slice(1).map(c => c.textContent))"
    )
    numbers = [[float("0" + text) for text in row] for row in shown]
    assert numbers == [pytest.approx(list(row), abs=0.006) for row in pattern[2]]
    page.evaluate(f"{GRID}[1].tBodies[0].rows[1].cells[4].click()")
    value = float(pattern[2, 1, 3])
    assert f"query 1 ␣Mary · key 3 ␣to: pattern {value:.2f}" in page.evaluate(SAID)


@pytest.mark.timeout(120)
def test_points_of_lines_and_tokens_explain_themselves_too(opened):
    found = result()
    page = opened(found)
    page.evaluate("document.querySelector('circle.point').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown")
    value = float(found["curve"].values[1, 1])
    assert page.evaluate(SAID).startswith(f"head 1 · layer 1: curve {value:.2f}")
    page.hover(f"{GRID}[2].tBodies[0].rows[0].cells[1]")
    assert page.evaluate(SAID).startswith("layer 3 · position 0 When: ")
    assert page.evaluate(SAID).count(",") == 1, "both tokens, with their probabilities"
    bar = "document.querySelector('table.bars').tBodies[0].rows[{}]"
    page.hover(bar.format(0))
    effect = found["effect"]
    assert page.evaluate(SAID).startswith(f"effect {float(effect[1, 2]):.2f}, 95% CI [")
    page.evaluate(f"{bar.format(0)}.focus()")
    for key, row in (("ArrowDown", 1), ("End", 7), ("ArrowUp", 6), ("Home", 0)):
        page.press(key)
        assert page.evaluate(f"{FOCUS} === {bar.format(row)}"), key
        assert page.evaluate(f"{FOCUS}.getAttribute('aria-label')") == page.evaluate(SAID)


@pytest.mark.timeout(120)
def test_another_prompt_is_chosen_and_explains_itself_as_the_first_does(opened):
    found = result()
    page = opened(found)
    figure = "document.getElementById('figure-5')"
    choice = f"{figure}.querySelector('.prompts select')"
    choose = f"{choice}.value = '{{}}'; {choice}.dispatchEvent(new Event('change'))"
    shown = f"[...{figure}.querySelectorAll('.shown td')].map(c => c.textContent)"
    first = page.evaluate(shown)
    assert not page.evaluate(f"{figure}.querySelector('.prompts').hidden")
    page.evaluate(choose.format(2))
    top, prob = found.each("top")[2], found.each("prob")[2]
    texts = [found.text(t).replace(" ", "␣") for t in top[::-1, :, 0].reshape(-1)]
    assert page.evaluate(shown) == texts != first
    page.hover(f"{figure}.querySelector('.shown td')")
    said = f"{found.text(top[-1, 0, 0]).replace(' ', '␣')} {prob[-1, 0, 0]:.2f}, "
    assert page.evaluate(SAID).startswith(f"layer 3 · position 0 When: {said}")
    page.evaluate(f"{figure}.querySelector('.shown td').focus()")
    page.press("ArrowDown")
    assert page.evaluate(SAID).startswith("layer 2 · position 0 When: ")
    page.evaluate(choose.format(0))
    assert page.evaluate(shown) == first and not page.said


@pytest.mark.timeout(120)
def test_nothing_that_authors_studies_or_servers_say_acts_in_the_page(project, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html(hostile_report(project)), encoding="utf-8")
    with browser(tmp_path) as page:
        page.size(1200, 900)
        page.open(path)
        assert {r for r in page.requests if not r.startswith("file:")} == set()
        assert page.evaluate("document.images.length") == 0
        assert page.evaluate("document.querySelectorAll('script:not([type])').length") == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        assert page.evaluate("document.querySelectorAll('main > section').length") == 10
        assert not page.said


@pytest.mark.timeout(120)
def test_nothing_leaves_the_page_and_hostile_texts_do_nothing(opened):
    found = result(HOSTILE)
    found.document["notes"].append(HOSTILE[1])
    page = opened(found, written={"discussion": HOSTILE[1] + HOSTILE[7][:-1]})
    page.evaluate("for (const c of document.querySelectorAll('td')) c.click()")
    assert {r for r in page.requests if not r.startswith("file:")} == set()
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.querySelectorAll('script:not([type])').length") == 1
    assert not [s for s in page.said if "javascriptDialog" in s or "exceptionDetails" in s]
    # Were there a way in after all, the policy of the page would still refuse to run or send.
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s)"
    )
    page.evaluate("fetch('http://192.0.2.7/x').catch(() => { window.refused = true; })")
    page.evaluate("const i = new Image(); i.src = 'http://192.0.2.7/y'; document.body.append(i)")
    until = time.monotonic() + 240
    while len(page.refused) < 1 or not page.evaluate("window.refused"):
        assert time.monotonic() < until, (page.requests, page.refused)
        page.evaluate("0")
    assert page.evaluate("window.ran") is None
    assert {r for r in page.requests if not r.startswith("file:")} == set(page.refused)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_window_and_is_legible_by_day_and_night(opened, width):
    page = opened(result([f" word{i}" for i in range(40)], layers=30))
    for scheme in ("light", "dark"):
        page.size(width, 900, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ratios = page.evaluate(CONTRAST)
        assert len(ratios) > 1000 and min(ratios) >= 4.5, (scheme, min(ratios))
    page.evaluate(f"{GRID}[0].closest('.scroll').scrollLeft = 200")
    left, frame = page.evaluate(
        f"[{GRID}[0].tBodies[0].rows[0].cells[0], {GRID}[0].closest('.scroll')]"
        ".map(e => e.getBoundingClientRect().left)"
    )
    assert abs(left - frame) < 2, "the names of the rows stay where they are"


#: Contrast of text and background of every cell and paragraph, as WCAG computes it.
CONTRAST = """(() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => { while (e) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; e = e.parentElement; } return [255, 255, 255]; };
  return [...document.querySelectorAll('td, th, p, figcaption, a, .legend')].map(e => {
    const pair = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05); });
})()"""
