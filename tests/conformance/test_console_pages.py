"""The console's list with many sandboxes, its other pages, and what axe says of them, over a fake node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import aiohttp
import pytest

from cloister.model.team import KeyScope
from framework.browser import SHOTS, browser, found_faults, log_in, opened, shoot
from framework.control_plane import ControlPlane, running_control_plane
from framework.requests import ask
from framework.template_requests import new_name, request_build, start

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

_SCRIPT = "<img src=x onerror=window.attacked=1>"
_MANY = 300 if SHOTS is None else 1000
_PLACES = ("#/templates", "#/keys", "#/usage", "#/audit")


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with many sandboxes, each tenth with the metadata ``role=web``."""
    with running_control_plane(tmp_path_factory.mktemp("crowd")) as plane:

        async def create() -> None:
            headers, connector = {"X-API-KEY": plane.api_key}, aiohttp.TCPConnector(limit=20)
            async with aiohttp.ClientSession(plane.url, headers=headers, connector=connector) as session:

                async def one(number: int) -> None:
                    metadata = {"job": str(number), "role": "batch" if number % 10 else "web"}
                    async with session.post("/v2/sandboxes", json={"templateID": "base", "timeout": 3600, "metadata": metadata}) as answer:
                        assert answer.status == 201, await answer.text()

                await asyncio.gather(*map(one, range(_MANY)))

        plane.run(create)
        yield plane


def test_many_sandboxes_are_listed(crowd: ControlPlane, browser: Browser) -> None:
    """The list counts all of them and has only the rows in view; a filter by metadata finds its tenth; the last row can be scrolled to."""
    with opened(browser, crowd.url, viewport={"width": 1280, "height": 800}) as shown:
        log_in(shown, crowd.api_key)
        page = shown.page
        page.get_by_text(f"{_MANY} of {_MANY}").wait_for()
        assert page.get_by_role("row").count() < 100
        shoot(shown, "list")
        assert found_faults(page) == []
        page.get_by_label("Rows").evaluate("box => { box.scrollTop = box.scrollHeight }")
        page.locator(f"[aria-rowindex='{_MANY + 1}']").wait_for()
        page.get_by_label("Filter").fill("role=web")
        page.get_by_text(f"{_MANY // 10} of {_MANY // 10}").wait_for()


@pytest.mark.parametrize(("name", "width", "scheme"), [("dark", 1280, "dark"), ("narrow", 390, "light")])
def test_pages_are_accessible(crowd: ControlPlane, browser: Browser, name: str, width: int, scheme: str) -> None:
    """Axe finds no fault in any page, dark or narrow, and no page is wider than a phone."""
    with opened(browser, crowd.url, viewport={"width": width, "height": 800}, color_scheme=scheme) as shown:
        log_in(shown, crowd.api_key)
        page = shown.page
        page.get_by_text(f"{_MANY} of {_MANY}").wait_for()
        shoot(shown, name)
        for place in ("", *_PLACES):
            shown.open(place)
            page.get_by_role("heading", level=1).wait_for()
            assert found_faults(page) == [], place
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_keyboard_is_enough(crowd: ControlPlane, browser: Browser) -> None:
    """Tab and Enter log in, go to the content and open another page."""
    with opened(browser, crowd.url) as shown:
        shown.open("")
        page = shown.page
        page.get_by_label("API key").wait_for()
        page.keyboard.type(crowd.api_key)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Sandboxes").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("() => document.activeElement.id") == "main"
        page.get_by_role("link", name="Keys").focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Keys").wait_for()


def test_a_key_is_made_shown_once_and_revoked(crowd: ControlPlane, browser: Browser) -> None:
    """A new key logs in; when it is revoked, its page is back at the login with the reason."""
    with opened(browser, crowd.url) as shown, opened(browser, crowd.url) as other:
        log_in(shown, crowd.api_key)
        shown.open("#/keys")
        page = shown.page
        page.get_by_label("Name").fill("for a test")
        page.get_by_label("Days").fill("99999999")
        page.get_by_role("button", name="Make a key").click()
        page.get_by_role("alert").get_by_text("give between 1 and 36500 days").wait_for()
        page.get_by_label("Days").fill("")
        page.get_by_role("button", name="Make a key").click()
        secret = page.get_by_role("status").get_by_role("code").inner_text()
        log_in(other, secret)
        row = page.get_by_role("row").filter(has_text="for a test")
        row.get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        row.wait_for(state="detached")
        other.page.get_by_label("API key").wait_for()
        other.page.get_by_role("alert").get_by_text("not valid").wait_for()


def test_an_operator_sees_teams_and_the_node(crowd: ControlPlane, browser: Browser) -> None:
    """An admin key opens the sandboxes of all teams, the teams and the node, and no team's pages."""
    _, key = crowd.with_keys(lambda keys: keys.create_for_operator(KeyScope.ADMIN, "operator"))
    with opened(browser, crowd.url) as shown:
        log_in(shown, key)
        page = shown.page
        page.get_by_text(f"{_MANY} of {_MANY}").wait_for()
        assert page.get_by_role("link", name="Templates").count() == 0
        shown.open("#/teams")
        page.get_by_role("link", name="default").click()
        page.get_by_role("heading", name="Limits").wait_for()
        assert found_faults(page) == []
        shown.open("#/node")
        page.get_by_text("takes sandboxes").wait_for()
        assert found_faults(page) == []


def test_the_log_of_a_build_grows(crowd: ControlPlane, browser: Browser) -> None:
    """The page of a template shows its newest build, with the log until it is ready; script in the log is text."""
    crowd.node.builds_run = True
    template_id, build_id = request_build(crowd, new_name())
    started = start(crowd, template_id, build_id, fromImage="debian", steps=[{"type": "RUN", "args": [f"echo {_SCRIPT}"]}])
    assert started.status == 202, started.body
    with opened(browser, crowd.url) as shown:
        log_in(shown, crowd.api_key)
        shown.open(f"#/templates/{template_id}")
        page = shown.page
        page.get_by_role("log").get_by_text(_SCRIPT).first.wait_for()
        page.get_by_role("status").get_by_text("ready").wait_for()
        shoot(shown, "build")
        assert found_faults(page) == []
        assert page.evaluate("() => window.attacked") is None


def test_a_wrong_address_is_explained(crowd: ControlPlane, browser: Browser) -> None:
    """An address that no page has, and an id that would lead requests to another path, say so."""
    with opened(browser, crowd.url) as shown:
        log_in(shown, crowd.api_key)
        for place in ("#/sandbox/%", "#/sandbox/..%2F..%2Fadmin", "#/constructor", "#/nowhere"):
            shown.open("#/sandboxes")
            shown.page.get_by_role("heading", name="Sandboxes").wait_for()
            shown.open(place)
            shown.page.get_by_text("There is nothing here.").wait_for()


def test_failures_of_the_session_are_told(crowd: ControlPlane, browser: Browser) -> None:
    """A server that cannot answer, and a logout that did not arrive, are not taken for a logout."""
    with opened(browser, crowd.url) as shown:
        page = shown.page
        page.route("**/console/session", lambda route: route.fulfill(status=503, json={"code": 503, "message": "the server is busy"}))
        shown.open("")
        page.get_by_role("alert").get_by_text("the server is busy").wait_for()
        page.unroute("**/console/session")
        log_in(shown, crowd.api_key)
        page.route("**/console/session", lambda route: route.abort())
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("alert").get_by_text("Failed to fetch").wait_for()
        page.unroute("**/console/session")
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("API key").wait_for()
        assert page.get_by_role("alert").count() == 0
        shown.faults.clear()  # the two failures, which the browser writes down


@pytest.mark.parametrize("kind", ["flood", "nonsense"])
def test_a_sandboxs_answer_cannot_break_the_console(crowd: ControlPlane, browser: Browser, kind: str) -> None:
    """A program that prints without end does not fill the page. An answer that is none is an error of its page, not a blank one."""
    lines = "".join(json.dumps({"type": "stdout", "text": "x" * 1000}) + "\n" for _ in range(1000)) if kind == "flood" else "null\n"
    sandbox_id = ask(crowd, "GET", "/v2/sandboxes").json()[0]["sandboxID"]
    with opened(browser, crowd.url) as shown:
        log_in(shown, crowd.api_key)
        page = shown.page
        page.route("**/execute", lambda route: route.fulfill(body=lines))
        shown.open(f"#/sandbox/{sandbox_id}")
        shown.tab("Code")
        page.get_by_label("Code of cell 1").fill("1")
        page.keyboard.press("Shift+Enter")
        if kind == "flood":
            page.get_by_label("Code of cell 2").wait_for()
            assert 100_000 < len(page.get_by_label("Output of cell 1").inner_text()) < 300_000
        else:
            page.get_by_role("alert").get_by_text("This page cannot be shown").wait_for()
        page.get_by_role("link", name="Keys").click()
        page.get_by_role("heading", name="Keys").wait_for()
        shown.faults.clear()  # the fake sandbox has no agent
