"""A sandbox made ahead is as guarded as one made for its client, from the moment it is handed over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from framework.inside import python, shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def made_ahead(server: Server) -> Iterator[Sandbox]:
    """A sandbox out of the pool."""
    for _ in range(50):
        sandbox = Sandbox.create(timeout=300, envs={"MINE": "it's"}, **server.sdk)
        created = [line for line in server.log.read_text().splitlines() if "sandbox.created" in line and sandbox.sandbox_id in line]
        if any('"made_ahead": true' in line for line in created):
            break
        sandbox.kill()
        time.sleep(1)
    else:
        pytest.fail("no creation was served from the pool")
    yield sandbox
    sandbox.kill()


def status_without_token(sandbox: Sandbox) -> str:
    """The agent's answer to a program inside that tries to run code without the token."""
    script = (
        "curl -s -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d '{\"code\": \"1\"}' http://127.0.0.1:49999/execute"
    )
    return shell(sandbox, script, user="user").text


def test_token_is_demanded_also_by_an_agent_that_came_back(made_ahead: Sandbox) -> None:
    """Killing the agent does not bring back the time when it had no token."""
    assert status_without_token(made_ahead) == "401"
    with contextlib.suppress(SandboxException, httpx.HTTPError):
        made_ahead.run_code("import os, signal\nos.kill(-1, signal.SIGKILL)", timeout=20)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(SandboxException, httpx.HTTPError):
            assert python(made_ahead, "import os; print(os.environ['MINE'])", timeout=10) == "it's"
            assert status_without_token(made_ahead) == "401"
            return
        time.sleep(0.25)
    pytest.fail("the sandbox did not answer again")


def test_variables_and_identity_are_the_clients(made_ahead: Sandbox) -> None:
    """Every language sees the client's variables and the sandbox's own id."""
    code = "import os; print(os.environ['MINE'], os.environ['E2B_SANDBOX_ID'])"
    assert python(made_ahead, code) == f"it's {made_ahead.sandbox_id}"
    printed = made_ahead.run_code('echo "$MINE $E2B_SANDBOX_ID"', language="bash").logs.stdout
    assert "".join(printed) == f"it's {made_ahead.sandbox_id}\n"


def test_two_of_them_share_no_randomness(server: Server) -> None:
    """Random values of each source differ, also if both kernels were forked from one zygote."""
    code = (
        "import random, secrets, uuid, numpy as np\nprint(random.random(), secrets.token_hex(8), uuid.uuid4(), np.random.rand())"
    )
    sandboxes = [Sandbox.create(timeout=60, **server.sdk) for _ in range(2)]
    first, second = (python(sandbox, code).split() for sandbox in sandboxes)
    for sandbox in sandboxes:
        sandbox.kill()
    assert all(one != other for one, other in zip(first, second, strict=True))
