"""The steps that keep the console's session to its own pages, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["CONSOLE_STEPS"]

_COOKIES, _CONSOLE = "src/cloister/api/cookies.py", "src/cloister/api/console.py"
_HEADERS, _FORWARD = "src/cloister/proxy/headers.py", "src/cloister/proxy/forward.py"

CONSOLE_STEPS = (
    Step(
        "console: the session's token",
        _COOKIES,
        "    if not hmac.compare_digest",
        "    if False and not hmac.compare_digest",
        "site_cannot_use_a_session",
    ),
    Step("console: the origin of a request", _COOKIES, "    if not is_own or", "    if", "site_cannot_use_a_session"),
    Step(
        "console: the site of a request",
        _COOKIES,
        ' or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"',
        "",
        "site_cannot_use_a_session",
    ),
    Step(
        "console: the key of a session is looked up",
        "src/cloister/control/keys.py",
        "await self._store.find_key(key_shown.sha256)",
        "self.__dict__.setdefault(key_shown.sha256, await self._store.find_key(key_shown.sha256))",
        "thief_cannot",
    ),
    Step("console: a cookie closed to scripts", _CONSOLE, "httponly=True", "httponly=False", "cannot_keep_the_key"),
    Step("console: a cookie for TLS alone", _CONSOLE, "secure=by_tls", "secure=False", "cannot_keep_the_key"),
    Step(
        "console: a policy with trusted types",
        _CONSOLE,
        "    \"require-trusted-types-for 'script'\",\n",
        "",
        "foreign_script or text_of_a_sandbox",
    ),
    Step(
        "console: no cookie for sandboxes",
        _HEADERS,
        "_passing(_without_console(raw), _HOP | _OWN)",
        "_passing(raw, _HOP | _OWN)",
        "consoles_cookie",
    ),
    Step(
        "console: no cookie from sandboxes",
        _HEADERS,
        'name.lower() != b"set-cookie" or not _is_of_console(value)',
        "True",
        "consoles_cookie",
    ),
    Step("console: signed links are confined", _FORWARD, "        confine(headers)\n", "        pass\n", "signed_link"),
    Step(
        "console: under TLS, only a cookie that subdomains cannot set",
        _COOKIES,
        "    if not found and not is_by_tls(request):",
        "    if not found:",
        "subdomain_cannot_choose",
    ),
    Step("console: no cookie without a name", _HEADERS, 'cookie.lstrip(b" \\t=")', "cookie", "consoles_cookie"),
    Step(
        "console: answers under its address stay in no cache",
        _HEADERS,
        '    headers["Cache-Control"] = "no-store"\n',
        "",
        "decide_about or cannot_take_the_consoles_place",
    ),
    Step("console: answers under its address speak for no origin", _HEADERS, "for name in _OF_ORIGIN", "for name in ()", "decide_about"),
    Step(
        "console: WebSockets by signed links are confined",
        _FORWARD,
        "_answer_headers(request, upstream, upgrade=True)",
        "response_headers(upstream.raw_headers, upgrade=True)",
        "decide_about",
    ),
    Step(
        "console: sessions of a team are bounded",
        "src/cloister/control/sessions.py",
        "if one.owner == owner], _MOST_PER_OWNER)",
        "if one.owner == owner], _MOST)",
        "flood_of_logins",
    ),
    Step(
        "console: sessions of a key are bounded",
        "src/cloister/control/sessions.py",
        "if one.key == key], _MOST_PER_KEY)",
        "if one.key == key], _MOST)",
        "flood_of_logins",
    ),
)
