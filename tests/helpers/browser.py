"""Headless Chromium for tests of the pages, and what it complained of."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium():
    """The system's Chromium. Without one the test is skipped, but in CI it fails."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing("the tests of the pages need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Opened:
    """A page from a file or server, 1400 x 900; `messages` are its errors and warnings, `requests` what it loads."""

    def __init__(self, browser, source: Path | str, size: tuple[int, int] = (1400, 900)):
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.tab.on("console", lambda message: self.messages.append(message.text))
        self.tab.on("pageerror", lambda error: self.messages.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.url = source if isinstance(source, str) else source.as_uri()
        self.tab.goto(self.url)
        self.load_ms = self.tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")

    def run(self, script: str):
        """The value of a JavaScript expression."""
        return self.tab.evaluate(script)

    def node(self, name: str) -> tuple[float, float]:
        """Where a node of the graph is on the screen, once it has come to rest: the panel beside it makes it move."""
        script = """id => { const box = ellm.cy.container().getBoundingClientRect();
            const at = ellm.cy.getElementById(id).renderedPosition(); return [box.x + at.x, box.y + at.y] }"""
        before, at = None, self.tab.evaluate(script, name)
        while at != before:
            self.tab.wait_for_timeout(50)  # ms
            before, at = at, self.tab.evaluate(script, name)
        return tuple(at)

    def details(self) -> str:
        """The text of the panel."""
        return self.tab.inner_text("#details")
