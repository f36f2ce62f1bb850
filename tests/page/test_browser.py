"""The page in a browser: from a file, on a phone and a desk, light and dark."""

import importlib
import importlib.util
import shutil
import time

import pytest
from support.browser import find_errors, open_browser

from pet_calc.page import write_page
from pet_calc.page.compare import compare_runs, write_comparison
from pet_calc.page.watch import LivePage, serve

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("is_dark", [False, True])
def test_the_page_fits_and_has_no_errors(finished, width, is_dark):
    path = write_page(finished)
    with open_browser(width, is_dark=is_dark) as browser:
        browser.get(path.as_uri())
        assert find_errors(browser) == []
        # the name of a kind of frames did not run
        assert "caught" not in browser.title
        run = browser.execute_script
        assert run("return document.documentElement.scrollWidth") <= width
        assert run("return document.querySelectorAll('svg[role=img]').length") > 10
        ground = run("return getComputedStyle(document.body).backgroundColor")
        ink = run(
            "return getComputedStyle(document.querySelector('figure svg text')).fill"
        )
        channels = [int(text) for text in ground[4:-1].split(",")]
        assert (sum(channels) < 384) == is_dark
        assert ink != ground
        # colours of series are those of the scheme
        line = "figure svg path[style*='--after']"
        stroke = f'return getComputedStyle(document.querySelector("{line}")).stroke'
        assert run(stroke) != "none"


@pytest.mark.parametrize("width", [360, 1400])
def test_the_other_pages_fit_and_have_no_errors(finished, checked, tmp_path, width):
    twin = tmp_path / "<b>twin"
    twin.symlink_to(finished)
    write_comparison(compare_runs([finished, twin]), tmp_path / "runs.html")
    with open_browser(width, is_dark=width == 360) as browser:
        for path in (checked, tmp_path / "runs.html"):
            browser.get(path.as_uri())
            assert find_errors(browser) == [], path
            assert "caught" not in browser.title
            run = browser.execute_script
            assert run("return document.documentElement.scrollWidth") <= width, path
            assert run("return document.querySelectorAll('svg[role=img]').length") > 3


def test_a_live_page_follows_the_run_to_its_end(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.json").unlink()
    lines = (finished / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(lines[:2]))
    page = LivePage(folder)
    page.update()
    head = "return document.querySelector('h1').textContent"
    with serve(page) as server, open_browser() as browser:
        browser.get(server.url)
        assert browser.execute_script(head) == "Training, 2 of 8 epochs done"
        # what is read of a long page stays open and in its place
        browser.execute_script("document.querySelector('details').open = false")
        time.sleep(3)  # it has asked once
        (folder / "log.jsonl").write_text("".join(lines[:5]))
        page.update()
        wait(browser, f"{head} === 'Training, 5 of 8 epochs done'")
        assert not browser.execute_script(
            "return document.querySelector('details').open"
        )
        assert find_errors(browser) == []
        (folder / "log.jsonl").write_text("".join(lines))
        shutil.copy(finished / "report.json", folder / "report.json")
        page.update()
        wait(browser, "return document.getElementById('live') === null")
        assert "than the base" in browser.execute_script(head)
        assert find_errors(browser) == []
        assert server.is_last_sent.is_set()


# the viewer's parts lie in shadow roots
DEEP = """
const deep = (root, selector) => {
  const found = root.querySelector(selector);
  if (found) return found;
  for (const part of root.querySelectorAll("*")) {
    const inner = part.shadowRoot && deep(part.shadowRoot, selector);
    if (inner) return inner;
  }
  return null;
};
const plot = deep(document, ".js-plotly-plot");
"""
# where point 3 of the map is in the window
PLACE = """
const layout = plot._fullLayout, points = plot.data[0];
const box = plot.getBoundingClientRect();
return [box.left + layout._size.l + layout.xaxis.d2p(points.x[3]),
        box.top + layout._size.t + layout.yaxis.d2p(points.y[3])];
"""
NUMBER = "return deep(document, 'input.chsp-info-number').value"


def test_clicking_a_point_shows_its_structure(finished):
    if importlib.util.find_spec("chemiscope") is None:
        pytest.skip("chemiscope is not installed: pip install 'pet-calc[view]'")
    path = write_page(finished)
    with open_browser() as browser:
        # drawn without a GPU
        browser.set_script_timeout(200)
        browser.get(path.as_uri())
        button = browser.find_element("id", "show-viewer")
        browser.execute_script("arguments[0].scrollIntoView()", button)
        button.click()
        wait(browser, "return window.viewer !== undefined")
        wait(browser, DEEP + "return !!(plot && plot._fullLayout && plot.data)")
        assert browser.find_element("id", "viewer-error").text == ""
        assert browser.execute_script(DEEP + NUMBER) == "0"
        x, y = browser.execute_script(DEEP + PLACE)
        webdriver = importlib.import_module("selenium.webdriver")
        actions = webdriver.ActionChains(browser)
        actions.move_by_offset(round(x), round(y)).pause(1).click().perform()
        wait(browser, DEEP + NUMBER.replace(".value", ".value === '3'"))
        assert find_errors(browser) == []


def wait(browser, script, seconds=90):
    """Wait until a script returns true; fail if it never does."""
    for _ in range(2 * seconds):
        if browser.execute_script(script):
            return
        time.sleep(0.5)
    pytest.fail(f"not so after {seconds} s: {script}")
