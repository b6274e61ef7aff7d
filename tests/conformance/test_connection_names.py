"""Names in the record of connections: those that a sandbox had looked up, for connections that only the kernel saw."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from framework.pretend_internet import OTHER_HOST, SHARED_HOST, PretendInternet
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


def names(server: Server, sandbox: Sandbox, count: int) -> list[tuple[Any, ...]]:
    """Name, its source, address and port of each connection of a sandbox that has ended, as soon as there are so many; in their order."""

    def look() -> list[tuple[Any, ...]]:
        answer = httpx.get(f"{server.url}/sandboxes/{sandbox.sandbox_id}/connections", headers={"X-API-KEY": server.api_key})
        found = sorted(answer.raise_for_status().json(), key=lambda one: str(one["timestamp"]))
        return [(one["name"], one["nameFrom"], one["address"], one["port"]) for one in found]

    with contextlib.suppress(AssertionError):
        eventually(lambda: len(look()) >= count, 60)
    return look()


def test_connections_by_the_kernel_have_the_names_that_were_looked_up(online_server: Server, internet: PretendInternet) -> None:
    """Of several names of one address the newest before the connection. An address that was not looked up has none."""
    assert internet.hosts
    with Sandbox.create(**online_server.sdk, timeout=300) as sandbox:
        for host in ("www.example.net", "api.example.net", OTHER_HOST):
            sandbox.commands.run(f"curl -sS -o /dev/null http://{host}:8080/; sleep 1")
    assert names(online_server, sandbox, 3) == [
        ("www.example.net", "lookup", SHARED_HOST, 8080),
        ("api.example.net", "lookup", SHARED_HOST, 8080),
        (None, None, OTHER_HOST, 8080),
    ]


def test_names_that_the_egress_process_answers_are_known_too(online_server: Server, internet: PretendInternet) -> None:
    """A sandbox with allowed names asks the egress process, and its connections at other ports pass by that process."""
    assert internet.hosts
    network: Any = {"allow_out": ["www.example.net", f"{SHARED_HOST}/32"], "deny_out": ["0.0.0.0/0"]}
    with Sandbox.create(**online_server.sdk, network=network, timeout=300) as sandbox:
        sandbox.commands.run("getent hosts www.example.net; sleep 3; curl -sS -o /dev/null http://www.example.net:8080/")
        sandbox.commands.run("curl -sSk -o /dev/null https://www.example.net/")  # its address is allowed: no name is read
    assert names(online_server, sandbox, 2) == [
        ("www.example.net", "lookup", SHARED_HOST, 8080),
        ("www.example.net", "lookup", SHARED_HOST, 443),
    ]
