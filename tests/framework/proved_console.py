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
        "console: sessions of a key are bounded",
        "src/cloister/control/sessions.py",
        "        for known in same[: max(0",
        "        for known in same[:0][: max(0",
        "flood_of_logins",
    ),
)
