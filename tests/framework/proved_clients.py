"""The steps that keep clients' bytes and addresses where they belong, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["CLIENT_STEPS"]

_ADDRESS = "src/cloister/proxy/address.py"
_API_HOST = "if _name(host) == api_host and (sandbox_id is None or not _CONSOLE_PATH.match(path)):"

CLIENT_STEPS = (
    Step(
        "clients: a domain in every answer",
        "src/cloister/model/addresses.py",
        "        return UNRESOLVED_DOMAIN",
        '        return ""',
        "told_no_domain",
    ),
    Step("addresses: one of each", _ADDRESS, "if len(headers.getall(name, ())) > 1:", "if False:", "send_two_addresses"),
    Step("addresses: the API's host", _ADDRESS, _API_HOST, "if False:", "use_the_api_by_an_address"),
    Step(
        "addresses: guesses are counted",
        "src/cloister/proxy/app.py",
        "self._slowed(request, refusal) if sandbox_id is None",
        "asyncio.sleep(0, refusal) if sandbox_id is None",
        "cannot_guess_tokens",
        also=(("src/cloister/proxy/app.py", "import hmac\n", "import asyncio\nimport hmac\n"),),
    ),
    Step(
        "host mask: a host and nothing else",
        "src/cloister/model/network.py",
        "    if match is None or",
        "    if match is not None and",
        "into_the_head_by_a_mask",
    ),
)
