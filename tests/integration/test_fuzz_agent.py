"""Broken HTTP and RPC over the wire, from the host through the ingress and from inside a sandbox.

The agent and the api process live on, answer, do not grow, and none of their answers is an internal error.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from e2b_code_interpreter import Sandbox

from framework import fuzz
from framework.fuzz import Fuzzer
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

_WARM_S, _LONG_S = 3.0, 6.0
_GROWTH_MIB = 16
_SEED = random.SystemRandom().randrange(1, 1 << 32)


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox that is worth nothing."""
    with Sandbox.create(timeout=600, **server.sdk) as made:
        made.commands.run("mkdir -p /tmp/fuzz")
        yield made


def agent_pid(sandbox: Sandbox) -> int:
    """The agent's process id on the host; its cgroup names the sandbox."""
    listed = subprocess.run(["pgrep", "-f", r"site/cloister/agent/main\.py"], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in listed.stdout.split()]
    (found,) = (pid for pid in pids if sandbox.sandbox_id in groups_of(pid))
    return found


def groups_of(pid: int) -> str:
    """A process's control groups; none when it has ended, as agents of other sandboxes may at any time."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cgroup").read_text()
    return ""


def mib(pid: int) -> float:
    """A process's resident memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def check_alive(sandbox: Sandbox, before: tuple[int, int], server: Server) -> None:
    """The same processes as before, and they work."""
    assert (agent_pid(sandbox), server.child("api")) == before, f"seed {_SEED}"
    assert sandbox.commands.run("echo alive").stdout == "alive\n"
    assert sandbox.run_code("1 + 1").text == "2"
    sandbox.files.write("/tmp/fuzz-after", "x")


@pytest.mark.parametrize("port", [49983, 49999])
def test_through_the_ingress(server: Server, sandbox: Sandbox, port: int) -> None:
    """A client with the sandbox's token sends anything at all."""
    token = {"X-Access-Token": sandbox._envd_access_token or ""}
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port), **token}
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    before = pids = agent_pid(sandbox), server.child("api")
    fuzzers = [Fuzzer((address.hostname, address.port), headers, port, _SEED + number) for number in range(2)]
    fuzzers[0].run(_WARM_S)
    sizes = [mib(pid) for pid in pids]
    fuzzers[1].run(_LONG_S)
    grown = [mib(pid) - size for pid, size in zip(pids, sizes, strict=True)]
    check_alive(sandbox, before, server)
    assert max(grown) < _GROWTH_MIB, f"seed {_SEED}: grown by {grown} MiB"
    assert [wrong for fuzzer in fuzzers for wrong in fuzzer.wrong] == []
    seen = fuzzers[0].statuses + fuzzers[1].statuses
    assert seen["200"], seen
    assert seen["400"], seen


@pytest.mark.parametrize("port", [49983, 49999])
def test_from_inside(server: Server, sandbox: Sandbox, port: int) -> None:
    """A program inside does the same to the agent's own sockets."""
    before = agent_pid(sandbox), server.child("api")
    sandbox.files.write("/tmp/fuzz.py", Path(fuzz.__file__).read_text())
    headers = json.dumps({"X-Access-Token": sandbox._envd_access_token})

    def run(seconds: float) -> dict[str, Any]:
        told = sandbox.commands.run(f"python3 /tmp/fuzz.py 127.0.0.1 {port} '{headers}' {seconds} {_SEED}", timeout=seconds + 30)
        seen: dict[str, Any] = json.loads(told.stdout)
        return seen

    run(_WARM_S)
    size = mib(before[0])
    seen = run(_LONG_S)
    grown = mib(before[0]) - size
    check_alive(sandbox, before, server)
    assert grown < _GROWTH_MIB, f"seed {_SEED}: grown by {grown:.0f} MiB"
    assert seen["wrong"] == [], f"seed {_SEED}"
    assert {"200", "400"} <= set(seen["statuses"]), seen
