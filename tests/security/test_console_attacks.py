"""The console against other sites, other teams, thieves of a cookie and sandboxes whose content it shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from cloister.control.sessions import Sessions
from cloister.model.team import KeyScope
from cloister.proxy.headers import request_headers, response_headers
from cloister.proxy.signed import SIGNED_PATH
from framework.browser import browser, log_in, opened, program
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer, call
from framework.requests import PORT, ask, create, sandbox, to

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

_SCRIPT = "<img src=x onerror='window.attacked = 1'><script>window.attacked = 1</script>"
_REPORTS = {
    "NEL": '{"report_to":"all","max_age":31536000,"success_fraction":1}',
    "Report-To": '{"group":"all","max_age":31536000,"endpoints":[{"url":"https://evil.example"}]}',
    "Strict-Transport-Security": "max-age=31536000",
    "Alt-Svc": 'h3=":444"',
}


@dataclass
class LoggedIn:
    """A browser's session, as a thief of everything in the browser has it."""

    plane: ControlPlane
    cookie: str
    token: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request with cookie and token; ``headers`` replace, and an empty one is left out."""
        sent = {"Cookie": self.cookie, "X-Console-Token": self.token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return call(self.plane.url, method, path, body=body, headers={name: value for name, value in sent.items() if value})


def enter(plane: ControlPlane, key: str | None = None, **headers: str) -> Answer:
    """Ask for a session."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(plane.url, "POST", "/console/session", body={"key": key or plane.api_key}, headers=named)


def logged_in(plane: ControlPlane, key: str | None = None) -> LoggedIn:
    """A session of a key."""
    answer = enter(plane, key)
    assert answer.status == 201, answer.body
    return LoggedIn(plane, answer.headers["Set-Cookie"].partition(";")[0], answer.json()["token"])


def test_a_session_works_as_its_key(control_plane: ControlPlane) -> None:
    """With cookie and token every route of the team answers; the audit log has the login and the change, each with the key's id."""
    session = logged_in(control_plane)
    assert session.ask("POST", "/v2/sandboxes", {"templateID": "base"}).status == 201
    assert len(session.ask("GET", "/v2/sandboxes").json()) == 1
    found = session.ask("GET", "/audit").json()
    assert {one["action"] for one in found} >= {"session.create", "sandbox.create"}
    assert len({one["keyID"] for one in found}) == 1


def test_another_site_cannot_use_a_session(control_plane: ControlPlane) -> None:
    """A request that a browser sends with the cookie for another page, or for a sandbox's page on a subdomain, opens nothing."""
    session = logged_in(control_plane)
    own = control_plane.url.partition("://")[2]
    assert session.ask("GET", "/v2/sandboxes", Origin=control_plane.url, Sec_Fetch_Site="same-origin").status == 200
    assert session.ask("POST", "/v2/sandboxes", {"templateID": "base"}, X_Console_Token="").status == 401
    assert session.ask("GET", "/v2/sandboxes", X_Console_Token="x" * 43).status == 403
    for origin in ("https://evil.example", "null", f"http://8080-abc.{own}", f"http://evil.example/{own}"):
        assert session.ask("POST", "/v2/sandboxes", {"templateID": "base"}, Origin=origin).status == 403, origin
        assert session.ask("GET", "/console/session", Origin=origin).status == 403
        assert enter(control_plane, Origin=origin).status == 403
    for site in ("cross-site", "same-site", "none"):
        assert session.ask("GET", "/v2/sandboxes", Sec_Fetch_Site=site).status == 403, site
        assert session.ask("GET", "/console/session", Sec_Fetch_Site=site).status == 403
    assert ask(control_plane, "GET", "/v2/sandboxes").json() == []


def test_another_site_cannot_read_with_credentials(control_plane: ControlPlane) -> None:
    """No answer allows a page of another origin to send cookies, whatever it asks."""
    session = logged_in(control_plane)
    for method, path in (("GET", "/console/session"), ("GET", "/v2/sandboxes"), ("OPTIONS", "/console/session")):
        answer = session.ask(method, path, Origin="https://evil.example", Access_Control_Request_Method="GET")
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["Access-Control-Allow-Origin"] in {None, "*"}


def test_a_thief_cannot_use_a_session_after_its_end(control_plane: ControlPlane) -> None:
    """A revocation of the key, the end of the session, and a restart end it at the next request."""
    made = ask(control_plane, "POST", "/api-keys", {"name": "lost"}).json()
    stolen, ended = logged_in(control_plane, made["key"]), logged_in(control_plane)
    assert stolen.ask("GET", "/v2/sandboxes").status == 200
    assert ask(control_plane, "DELETE", f"/api-keys/{made['id']}").status == 204
    assert stolen.ask("GET", "/v2/sandboxes").status == 401
    assert stolen.ask("GET", "/console/session", X_Console_Token="").status == 401
    assert ended.ask("DELETE", "/console/session").status == 204
    assert ended.ask("GET", "/v2/sandboxes").status == 401
    kept = logged_in(control_plane)
    control_plane.restart_api()
    assert kept.ask("GET", "/v2/sandboxes").status == 401


def test_a_session_cannot_reach_another_team(control_plane: ControlPlane) -> None:
    """Another team's sandbox and the operator's routes are as closed to a session as to its key."""
    sandbox_id = create(control_plane)["sandboxID"]
    _, other = control_plane.with_keys(lambda keys: keys.create("other", "theirs"))
    session = logged_in(control_plane, other)
    assert session.ask("GET", f"/sandboxes/{sandbox_id}").status == 404
    assert session.ask("DELETE", f"/sandboxes/{sandbox_id}").status == 404
    assert session.ask("GET", f"/v2/sandboxes/{sandbox_id}/logs").status == 404
    assert session.ask("GET", "/v2/sandboxes").json() == []
    for path in ("/admin/sandboxes", "/admin/node", "/admin/teams", "/metrics"):
        assert session.ask("GET", path).status == 403, path
    assert session.ask("DELETE", f"/admin/sandboxes/{sandbox_id}").status == 403
    assert ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").status == 200


def test_an_operator_sees_all_teams_and_enters_none(control_plane: ControlPlane) -> None:
    """A session of an admin key lists and kills sandboxes of every team; routes of a team and tokens of sandboxes stay closed."""
    sandbox_id = create(control_plane)["sandboxID"]
    _, key = control_plane.with_keys(lambda keys: keys.create_for_operator(KeyScope.ADMIN, "admin"))
    session = logged_in(control_plane, key)
    listed = session.ask("GET", "/admin/sandboxes").json()
    assert [one["sandboxID"] for one in listed] == [sandbox_id]
    assert "oken" not in json.dumps(listed)
    assert session.ask("GET", f"/sandboxes/{sandbox_id}").status == 401
    assert session.ask("GET", "/admin/node").json()["nodeID"]
    assert session.ask("DELETE", f"/admin/sandboxes/{sandbox_id}").status == 204
    assert session.ask("DELETE", f"/admin/sandboxes/{sandbox_id}").status == 404


def test_a_browser_cannot_keep_the_key(control_plane: ControlPlane) -> None:
    """The cookie is closed to scripts and other sites; no answer holds the key; a metrics key gets no session."""
    answer = enter(control_plane)
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    by_tls = enter(control_plane, **{"X-Forwarded-Proto": "https"}).headers["Set-Cookie"]
    assert by_tls.startswith("__Host-cloister-console=")
    assert "Secure" in by_tls.split("; ")
    session = logged_in(control_plane)
    for found in (answer, session.ask("GET", "/console/session"), session.ask("GET", "/teams"), session.ask("GET", "/api-keys")):
        assert control_plane.api_key.encode() not in found.body
    assert enter(control_plane, control_plane.metrics_key()).status == 401
    assert enter(control_plane, "e2b_" + "0" * 40).status == 401


def test_a_page_cannot_run_a_foreign_script(control_plane: ControlPlane) -> None:
    """The page's policy has a nonce of its own each time, no inline script or style, and no other host; no page can frame it."""
    first, second = (call(control_plane.url, "GET", "/console").headers["Content-Security-Policy"] for _ in range(2))
    assert first != second
    assert "unsafe" not in first
    assert "http" not in first
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"):
        assert rule in first


def test_a_sandbox_cannot_get_or_set_the_consoles_cookie() -> None:
    """The ingress takes the cookie out of requests and out of answers, and leaves all others."""
    raw = ((b"Cookie", b"a=1; cloister-console=stolen; b=2"), (b"cookie", b"__Host-cloister-console=stolen"), (b"Cookie", b"c=3"))
    sent = request_headers(raw, peer="192.0.2.1", host="h", scheme="http", upgrade=False)
    assert sent.getall("Cookie") == ["a=1; b=2", "c=3"]
    came = response_headers(((b"Set-Cookie", b" cloister-console=mine; Path=/"), (b"Set-Cookie", b"a=1")), upgrade=False)
    assert came.getall("Set-Cookie") == ["a=1"]
    for name in (b"=cloister-console=mine", b" = __Host-cloister-console=mine", b"==cloister-console=mine"):
        assert "Set-Cookie" not in response_headers(((b"Set-Cookie", name),), upgrade=True), "a cookie without a name is sent as its value"


def test_a_page_on_a_subdomain_cannot_choose_the_session(control_plane: ControlPlane) -> None:
    """Such a page can set a cookie without the prefix. Under TLS it is no session, and does not end the person's own."""
    theirs = logged_in(control_plane)
    by_tls = enter(control_plane, X_Forwarded_Proto="https")
    own = by_tls.headers["Set-Cookie"].partition(";")[0]
    for tls in ({"X_Forwarded_Proto": "https"}, {"X_Forwarded_Proto": "https, http"}):
        assert theirs.ask("GET", "/console/session", **tls).status == 401
        assert theirs.ask("GET", "/v2/sandboxes", **tls).status == 401
        found = theirs.ask("GET", "/console/session", Cookie=f"{theirs.cookie}; {own}", **tls)
        assert found.json()["token"] == by_tls.json()["token"]
    assert theirs.ask("GET", "/console/session", Cookie=f"{theirs.cookie}; {own}").json()["token"] == by_tls.json()["token"]


def test_a_session_that_ended_leaves_no_cookie(control_plane: ControlPlane) -> None:
    """Under TLS, browsers remove the cookie only if the answer has its prefix, its path and "Secure"."""
    session = logged_in(control_plane)
    taken = session.ask("DELETE", "/console/session", X_Forwarded_Proto="https").headers["Set-Cookie"].split("; ")
    assert taken[0] == '__Host-cloister-console=""'
    assert {"Secure", "Path=/", "Max-Age=0"} <= set(taken)
    assert session.ask("DELETE", "/console/session").headers["Set-Cookie"].startswith('cloister-console=""')


def test_a_signed_link_cannot_act_on_the_consoles_origin(control_plane: ControlPlane) -> None:
    """A sandbox's answer to a link without an address, which a browser may follow on this origin, is no page and sets no cookie."""

    async def hostile(_request: web.Request) -> web.Response:
        return web.Response(text=_SCRIPT, content_type="text/html", headers={"Set-Cookie": "=cloister-console=mine"})

    sandbox_id, inside = sandbox(control_plane)
    inside.agent = hostile
    token = ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").json()["envdAccessToken"]
    answer = call(control_plane.url, "GET", f"{SIGNED_PATH}?path=/x", headers={"X-Access-Token": token})
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers
    addressed = call(control_plane.url, "GET", "/page", headers=to(sandbox_id, 49983, X_Access_Token=token))
    assert "Content-Security-Policy" not in addressed.headers, "an addressed request gets the sandbox's answer as it is"


def test_a_sandbox_cannot_decide_about_the_consoles_origin(control_plane: ControlPlane) -> None:
    """No cache keeps a sandbox's answer under the console's address. It says nothing about the other pages there."""

    async def hostile(request: web.Request) -> Any:  # a WebSocket is no web.Response
        headers = {"Cache-Control": "max-age=31536000", "Clear-Site-Data": '"*"', "Set-Cookie": "=cloister-console=mine", **_REPORTS}
        if request.headers.get("Upgrade") != "websocket":
            return web.Response(text=_SCRIPT, content_type="text/html", headers=headers)
        socket = web.WebSocketResponse()
        socket.headers.update(headers)
        await socket.prepare(request)
        return socket

    sandbox_id, inside = sandbox(control_plane)
    inside.agent = hostile
    control_plane.run(lambda: inside.serve(PORT, hostile))
    token = ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").json()["envdAccessToken"]
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}
    for named in (to(sandbox_id), {"X-Access-Token": token}):
        for more in ({}, upgrade):
            answer = call(control_plane.url, "GET", "/console" if "E2b-Sandbox-Id" in named else SIGNED_PATH, headers={**named, **more})
            assert answer.status == (101 if more else 200), answer.body
            assert answer.headers["Cache-Control"] == "no-store"
            assert not {"Set-Cookie", "Clear-Site-Data", *_REPORTS} & set(answer.headers), answer.headers.items()


@pytest.mark.slow
def test_a_page_of_a_sandbox_cannot_take_the_consoles_place(tmp_path: Path, browser: Browser) -> None:
    """A page on a subdomain asks its sandbox under the console's address. The browser keeps no such answer."""
    with running_control_plane(tmp_path, domain="sbx.localtest") as plane:

        async def hostile(_request: web.Request) -> web.Response:
            headers = {"Cache-Control": "public, max-age=31536000", "Access-Control-Allow-Origin": "*"}
            return web.Response(text="<title>taken</title>", content_type="text/html", headers=headers)

        sandbox_id, inside = sandbox(plane)
        plane.run(lambda: inside.serve(PORT, hostile))
        port = plane.url.rpartition(":")[2]
        launched = browser.browser_type.launch(
            executable_path=program(), args=["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP *.localtest 127.0.0.1"]
        )
        try:
            page = launched.new_page()
            page.goto(f"http://{PORT}-{sandbox_id}.sbx.localtest:{port}/")
            assert page.title() == "taken"
            ask_for = "([url, headers]) => fetch(url, { headers }).then(answer => answer.text())"
            console = f"http://sbx.localtest:{port}/console"
            assert "taken" in page.evaluate(ask_for, [console, to(sandbox_id)])
            page.goto(console)
            page.get_by_label("API key").wait_for()
        finally:
            launched.close()


def test_a_flood_of_logins_cannot_fill_the_memory() -> None:
    """A key has at most fifty sessions, and a team 500. A further login ends its oldest, and no other team's."""
    from cloister.control.keys import HashedKey

    sessions = Sessions()
    other, _ = sessions.open(HashedKey("b"), "other")
    ids = [sessions.open(HashedKey("a"), "team")[0] for _ in range(60)]
    assert len(sessions) == 51
    assert [sessions.find(one) is not None for one in ids] == [False] * 10 + [True] * 50
    assert sessions.find(other) is not None
    for number in range(200):
        for _ in range(50):
            sessions.open(HashedKey(f"a{number}"), "team")
    assert len(sessions) == 501
    assert sessions.find(other) is not None


def test_a_session_cannot_outlive_its_time() -> None:
    """A session ends when it was not used for eight hours, and a week after the login."""
    from cloister.control.keys import HashedKey

    now = 0.0
    sessions = Sessions(lambda: now)
    idle, _ = sessions.open(HashedKey("a"), "team")
    now = 8 * 3600.0 + 1
    assert sessions.find(idle) is None
    used, _ = sessions.open(HashedKey("a"), "team")
    for _ in range(7 * 24):
        now += 3600.0
        assert sessions.find(used) is not None
    now += 3600.0
    assert sessions.find(used) is None


@pytest.mark.slow
def test_text_of_a_sandbox_cannot_act_in_the_console(control_plane: ControlPlane, browser: Browser) -> None:
    """Script in metadata is shown as text. A script that got into the page all the same would not run, and no request would leave."""
    create(control_plane, metadata={"name": _SCRIPT, "<b>": "&amp;"})
    with opened(browser, control_plane.url) as shown:
        log_in(shown, control_plane.api_key)
        shown.page.get_by_text(_SCRIPT).wait_for()
        inject = "text => { const s = document.createElement('script'); s.setAttribute('src', 'data:text/javascript,window.attacked=1'); document.body.append(s) }"
        refused = shown.page.evaluate("() => { try { document.body.innerHTML = '<b>'; return 'set' } catch (error) { return error.name } }")
        assert refused == "TypeError", "trusted types let text become elements"
        assert (
            shown.page.evaluate(f"text => {{ try {{ ({inject})(text); return 'added' }} catch (error) {{ return error.name }} }}", "")
            == "TypeError"
        )
        assert shown.page.evaluate("() => window.attacked") is None
        assert shown.page.evaluate("() => document.cookie + JSON.stringify([localStorage.length, sessionStorage.length])") == "[0,0]"
        shown.faults.clear()  # the refusals, which the browser writes down
