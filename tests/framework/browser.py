"""A real browser for tests of the console: Debian's Chromium without a screen, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported late, because only tests with a browser need it
    from playwright.sync_api import Browser, Page

__all__ = ["AXE", "SHOTS", "Console", "browser", "console", "found_faults", "log_in", "opened", "program", "shoot"]

_PROGRAMS = ("chromium-headless-shell", "chromium")
_WAIT_MS = 120_000
AXE = Path(__file__).parents[2] / "clients/console/node_modules/axe-core/axe.min.js"
_RUN_AXE = "async () => (await axe.run()).violations.map(one => one.id + ': ' + one.nodes.map(node => node.html.slice(0, 200)).join(' | '))"
SHOTS = os.environ.get("CONSOLE_SCREENSHOTS")
"""A directory for the screenshots of the documents; unset: none are made."""
_QUIET = re.compile(r"status of (?:401|404)")
"""Chromium writes failed requests to the console. These two are answers that pages handle: no session yet, and a sandbox that ended."""


def program() -> str:
    """The browser's path. Skips the test if this machine has none."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        pytest.skip("this machine cannot run Chromium: its distribution has no package of it")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module, which must have no coroutines: while Playwright is there, this thread has a running event loop."""
    path = program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield launched
        launched.close()


@dataclass
class Console:
    """A page of the console, with what went wrong in it."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    """Origins that the page asked anything of."""

    def open(self, place: str) -> None:
        """Show a place of the console, such as ``#/keys``."""
        self.page.goto(f"{self.url}/console{place}")

    def tab(self, name: str) -> None:
        """Open a tab of a sandbox."""
        self.page.get_by_role("tab", name=name).click()


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Console]:
    """A page in a browser profile of its own. At the end it must have had no fault: no script failed, nothing was refused by the policy."""
    made = browser.new_context(**context)
    made.set_default_timeout(_WAIT_MS)
    page = made.new_page()
    shown = Console(page, url)
    page.on("pageerror", lambda error: shown.faults.append(f"script: {error}"))
    page.on("console", lambda message: shown.faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: shown.hosts.add("/".join(request.url.split("/")[:3])) if request.url.startswith("http") else None)
    try:
        yield shown
        assert [fault for fault in shown.faults if not _QUIET.search(fault)] == []
        assert shown.hosts <= {url}, "the console asked another host"
    finally:
        made.close()


def shoot(shown: Console, name: str) -> None:
    """A screenshot for the documents, if they are wanted."""
    if SHOTS is not None:
        shown.page.screenshot(path=Path(SHOTS) / f"console-{name}.png")


def log_in(shown: Console, key: str) -> None:
    """Log in with a key, and wait for the list."""
    shown.open("")
    shown.page.get_by_label("API key").fill(key)
    shown.page.get_by_role("button", name="Log in").click()
    shown.page.get_by_role("heading", name="Sandboxes").wait_for()


@pytest.fixture
def console(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Console]:
    """The console of the shared server, logged in."""
    server = request.getfixturevalue("server")
    with opened(browser, server.url, viewport={"width": 1280, "height": 800}) as shown:
        log_in(shown, server.api_key)
        yield shown


def found_faults(page: Page) -> list[str]:
    """The faults that axe finds in the page, for people who use it by keyboard or ear, or with low contrast."""
    page.evaluate(AXE.read_text())
    found = page.evaluate(_RUN_AXE)
    return [str(one) for one in found]
