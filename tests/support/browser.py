"""Chromium without a window, to see pages as a user does."""

import shutil
import tempfile
from contextlib import contextmanager

import pytest

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@contextmanager
def open_browser(width=1400, height=1000, *, is_dark=False):
    """Give a Selenium driver; skip the test where there is no browser for it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as folder:
        for flag in (*_FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        service = webdriver.chrome.service.Service(driver)
        browser = webdriver.Chrome(options=options, service=service)
        try:
            # a window cannot be as narrow as a phone
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": False}
            )
            value = "dark" if is_dark else "light"
            features = [{"name": "prefers-color-scheme", "value": value}]
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": features}
            )
            yield browser
        finally:
            browser.quit()


def find_errors(browser):
    """What the console has of errors; empty for a sound page."""
    found = browser.get_log("browser")
    return [entry["message"] for entry in found if entry["level"] == "SEVERE"]
