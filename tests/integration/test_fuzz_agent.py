"""Broken HTTP and RPC over the wire, from the host through the ingress and from inside a sandbox.

The agent and the api process live on, answer, do not grow, and none of their answers is an internal error.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from e2b_code_interpreter import Sandbox

from framework import fuzz
from framework.fuzz import Fuzzer
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

_WARM_S, _LONG_S = 2.0, 4.0
_GROWTH_MIB = 16
_SEED = random.SystemRandom().randrange(1, 1 << 32)


@pytest.fixture(scope="module")
def sandbox(tier_sandbox: Sandbox) -> Sandbox:
    """A sandbox that is worth nothing, on each runtime."""
    tier_sandbox.set_timeout(600)
    tier_sandbox.commands.run("mkdir -p /tmp/fuzz")
    return tier_sandbox


def agent_of(sandbox: Sandbox) -> tuple[int, float]:
    """The agent's process id inside, and its resident memory in MiB."""
    look = "pid=$(pgrep -P 1 -f site/cloister/agent/main.py) && echo $pid && grep VmRSS /proc/$pid/status"
    pid, _, kib, _ = sandbox.commands.run(look, user="root").stdout.split()
    return int(pid), int(kib) / 1024


def mib(pid: int) -> float:
    """Resident memory of a process of the host."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def check_alive(sandbox: Sandbox, before: tuple[int, int], server: Server) -> None:
    """The same processes as before, and they work."""
    assert (agent_of(sandbox)[0], server.child("api")) == before, f"seed {_SEED}"
    assert sandbox.commands.run("echo alive").stdout == "alive\n"
    assert sandbox.run_code("1 + 1").text == "2"
    sandbox.files.write("/tmp/fuzz-after", "x")


@pytest.mark.parametrize("port", [49983, 49999])
def test_through_the_ingress(tier_server: Server, sandbox: Sandbox, port: int) -> None:
    """A client with the sandbox's token sends anything at all."""
    token = {"X-Access-Token": sandbox._envd_access_token or ""}
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port), **token}
    address = urlsplit(tier_server.url)
    assert address.hostname is not None
    assert address.port is not None
    api = tier_server.child("api")
    before = agent_of(sandbox)[0], api
    fuzzers = [Fuzzer((address.hostname, address.port), headers, port, _SEED + number) for number in range(2)]
    fuzzers[0].run(_WARM_S)
    sizes = agent_of(sandbox)[1], mib(api)
    fuzzers[1].run(_LONG_S)
    grown = [size - former for size, former in zip((agent_of(sandbox)[1], mib(api)), sizes, strict=True)]
    check_alive(sandbox, before, tier_server)
    assert max(grown) < _GROWTH_MIB, f"seed {_SEED}: grown by {grown} MiB"
    assert [wrong for fuzzer in fuzzers for wrong in fuzzer.wrong] == []
    seen = fuzzers[0].statuses + fuzzers[1].statuses
    assert seen["200"], seen
    assert seen["400"], seen


@pytest.mark.parametrize("port", [49983, 49999])
def test_from_inside(tier_server: Server, sandbox: Sandbox, port: int) -> None:
    """A program inside does the same to the agent's own sockets."""
    before = agent_of(sandbox)[0], tier_server.child("api")
    sandbox.files.write("/tmp/fuzz.py", Path(fuzz.__file__).read_text())
    headers = json.dumps({"X-Access-Token": sandbox._envd_access_token})

    def run(seconds: float) -> dict[str, Any]:
        told = sandbox.commands.run(f"python3 /tmp/fuzz.py 127.0.0.1 {port} '{headers}' {seconds} {_SEED}", timeout=seconds + 30)
        seen: dict[str, Any] = json.loads(told.stdout)
        return seen

    run(_WARM_S)
    size = agent_of(sandbox)[1]
    seen = run(_LONG_S)
    grown = agent_of(sandbox)[1] - size
    check_alive(sandbox, before, tier_server)
    assert grown < _GROWTH_MIB, f"seed {_SEED}: grown by {grown:.0f} MiB"
    assert seen["wrong"] == [], f"seed {_SEED}"
    assert {"200", "400"} <= set(seen["statuses"]), seen
