"""The page in a browser: from a file, on a phone and a desk, light and dark."""

import importlib.util
import time

import pytest
from support.browser import find_errors, open_browser

from pet_calc.page import write_page

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


def test_clicking_a_point_shows_its_structure(finished):
    if importlib.util.find_spec("chemiscope") is None:
        pytest.skip("chemiscope is not installed: pip install 'pet-calc[view]'")
    path = write_page(finished)
    with open_browser() as browser:
        browser.get(path.as_uri())
        button = browser.find_element("id", "show-viewer")
        browser.execute_script("arguments[0].scrollIntoView()", button)
        button.click()
        for _ in range(120):
            if browser.execute_script("return window.viewer !== undefined"):
                break
            time.sleep(0.5)
        assert browser.find_element("id", "viewer-error").text == ""
        assert find_errors(browser) == []
        assert browser.find_element("id", "viewer-structure").is_displayed()
        shown = "return window.viewer.info._indexer ? 1 : 0"
        assert browser.execute_script(shown) in (0, 1)
        select = "window.viewer.select({structure: 3}); return 1"
        assert browser.execute_script(select) == 1
        assert find_errors(browser) == []
