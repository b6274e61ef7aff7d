"""Shared by the tests of pauses and resumes: requests to a real server, and waiting for a state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from e2b import Sandbox

from framework.http import Answer, call
from framework.server import Server
from framework.waiting import eventually

__all__ = ["ENVD", "KINDS", "WEB_SERVER", "api", "boot_id", "endpoints", "inside", "lifetime_s", "new", "state", "until"]

ENVD = 49983
KINDS = ("full", "filesystem")
"""The modes of ``pause`` in the SDKs: with the processes and the memory, and with the files only."""
WEB_SERVER = "python3 -m http.server 8000 --bind 127.0.0.1"


def api(server: Server, method: str, path: str, body: Any = None) -> Answer:
    """A request to the API with the server's default key."""
    return call(server.url, method, path, body=body, headers={"X-API-KEY": server.api_key})


def inside(server: Server, sandbox_id: str, port: int, path: str = "/", **headers: str) -> Answer:
    """A GET of a port of the sandbox; an underscore in a header's name stands for a dash."""
    to = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}
    return call(server.url, "GET", path, headers=to | {name.replace("_", "-"): value for name, value in headers.items()})


def state(server: Server, sandbox_id: str) -> str:
    """Its state by GET; ``gone`` if there is no such sandbox."""
    answer = api(server, "GET", f"/sandboxes/{sandbox_id}")
    return str(answer.json()["state"]) if answer.status == 200 else "gone"


def until(server: Server, sandbox_id: str, wanted: str) -> None:
    """Wait until it is in this state."""
    eventually(lambda: state(server, sandbox_id) == wanted)


def endpoints(server: Server, sandbox_id: str) -> tuple[datetime, datetime]:
    """``startedAt`` and ``endAt``."""
    found = api(server, "GET", f"/sandboxes/{sandbox_id}").json()
    return datetime.fromisoformat(found["startedAt"]), datetime.fromisoformat(found["endAt"])


def lifetime_s(server: Server, sandbox_id: str) -> float:
    """Seconds from the start of its present run to the end of its time."""
    started_at, end_at = endpoints(server, sandbox_id)
    return (end_at - started_at).total_seconds()


def boot_id(sandbox: Sandbox) -> str:
    """The sandbox's name for this boot: another one after a resume from files."""
    return sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()


@contextmanager
def new(server: Server, template: str = "base", **options: Any) -> Iterator[Sandbox]:
    """A sandbox for the block, killed at its end whatever state it is in."""
    sandbox = Sandbox.create(template, **{"timeout": 300, **options, **server.sdk})
    try:
        yield sandbox
    finally:
        sandbox.kill()
