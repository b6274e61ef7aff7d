"""The official Python SDK, unmodified, against the control plane over a fake node."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import pytest
from e2b import (
    AuthenticationException,
    RateLimitException,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    TimeoutException,
)
from e2b_code_interpreter import AsyncSandbox, Sandbox

from cloister.errors import NodeUnreachableError
from framework.control_plane import ControlPlane, running_control_plane

pytestmark = pytest.mark.root


def api(plane: ControlPlane) -> dict[str, str]:
    """The connection arguments of calls that do not reach into sandboxes."""
    return {"api_key": plane.api_key, "api_url": plane.url}


def wait_gone(sandbox: Sandbox, timeout_s: float = 5.0) -> None:
    """Return when the sandbox no longer answers."""
    deadline = time.monotonic() + timeout_s
    while sandbox.is_running():
        assert time.monotonic() < deadline, "the sandbox still runs"
        time.sleep(0.05)


def test_life_of_a_sandbox(control_plane: ControlPlane) -> None:
    """A sandbox is created, described, run in, prolonged, listed and killed."""
    sandbox = Sandbox.create(metadata={"who": "me & you"}, timeout=60, **control_plane.sdk)
    assert sandbox.is_running()
    assert sandbox.run_code("hello").logs.stdout == ["hello\n"]
    info = sandbox.get_info()
    assert (info.metadata, info.name, info.cpu_count) == ({"who": "me & you"}, "code-interpreter-v1", 2)
    assert 55 < (info.end_at - info.started_at).total_seconds() <= 61
    sandbox.set_timeout(600)
    assert (sandbox.get_info().end_at - info.end_at).total_seconds() > 500
    assert [found.sandbox_id for found in Sandbox.list(**api(control_plane)).next_items()] == [sandbox.sandbox_id]
    assert sandbox.get_metrics()[0].mem_total == 1 << 30
    assert sandbox.kill()
    assert not sandbox.kill()
    assert not sandbox.is_running()


async def test_life_of_a_sandbox_async(control_plane: ControlPlane) -> None:
    """The asynchronous SDK can do the same."""
    sandbox = await AsyncSandbox.create(envs={"A": "b"}, **control_plane.sdk)
    seen: list[str] = []
    execution = await sandbox.run_code("hello", on_stdout=lambda message: seen.append(message.line))
    assert (execution.text, seen) == ("hello", ["hello\n"])
    assert control_plane.node.find(sandbox.sandbox_id).request.envs == {"A": "b"}
    again = await AsyncSandbox.connect(sandbox.sandbox_id, **control_plane.sdk)
    assert (await again.run_code("again")).text == "again"
    assert await sandbox.kill()
    assert not await again.is_running()


def test_connect_never_shortens(control_plane: ControlPlane) -> None:
    """Connecting prolongs a life that is too short and leaves a longer one alone."""
    sandbox = Sandbox.create(timeout=600, **control_plane.sdk)
    before = sandbox.get_info().end_at
    Sandbox.connect(sandbox.sandbox_id, timeout=10, **control_plane.sdk)
    assert sandbox.get_info().end_at == before
    Sandbox.connect(sandbox.sandbox_id, timeout=1200, **control_plane.sdk)
    assert sandbox.get_info().end_at > before


def test_wrong_key(control_plane: ControlPlane) -> None:
    """A key that is not one of the server's raises AuthenticationException."""
    with pytest.raises(AuthenticationException, match="not valid"):
        Sandbox.create(**{**control_plane.sdk, "api_key": "e2b_" + "0" * 40})


def test_unknown_template(control_plane: ControlPlane) -> None:
    """An unknown template raises SandboxException with status 404 and names it."""
    with pytest.raises(SandboxException, match=r"template 'nope' not found .*'cloister template build all'") as caught:
        Sandbox.create("nope", **control_plane.sdk)
    assert caught.value.status_code == 404


def test_unknown_sandbox(control_plane: ControlPlane) -> None:
    """An id that never was is not found by any call."""
    nobody = "a" * 20
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_info(nobody, **api(control_plane))
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(nobody, **control_plane.sdk)
    with pytest.raises(SandboxNotFoundException):
        Sandbox.set_timeout(nobody, 5, **api(control_plane))
    assert not Sandbox.kill(nobody, **api(control_plane))


def test_expiry(control_plane: ControlPlane) -> None:
    """A sandbox whose time is over is gone, and a run in it says why."""
    sandbox = Sandbox.create(timeout=1, **control_plane.sdk)
    wait_gone(sandbox)
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()
    with pytest.raises(TimeoutException, match="reached its timeout"):
        sandbox.run_code("x")
    assert control_plane.node.sandboxes == {}


def test_timeout_of_zero_ends(control_plane: ControlPlane) -> None:
    """Setting the timeout to zero ends the sandbox at once."""
    sandbox = Sandbox.create(**control_plane.sdk)
    sandbox.set_timeout(0)
    assert not sandbox.is_running()
    assert control_plane.node.sandboxes == {}


def test_kill_during_a_run(control_plane: ControlPlane) -> None:
    """Killing a sandbox while it streams breaks the stream, and the SDK says that it was killed."""
    sandbox = Sandbox.create(**control_plane.sdk)

    def kill(_: object) -> None:
        if control_plane.node.sandboxes:
            Sandbox.kill(sandbox.sandbox_id, **api(control_plane))

    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is the SDK's choice
        sandbox.run_code("forever", on_stdout=kill, timeout=20)
    assert "timed out" not in str(caught.value)


def test_team_limit(tmp_path: Path) -> None:
    """One sandbox too many raises RateLimitException at once, with the limit in its text; a kill makes room."""
    with running_control_plane(tmp_path, max_sandboxes_per_team=2) as plane:
        first, _ = (Sandbox.create(**plane.sdk) for _ in range(2))
        began = time.monotonic()
        with pytest.raises(RateLimitException, match="2 live sandboxes"):
            Sandbox.create(**plane.sdk)
        assert time.monotonic() - began < 5
        first.kill()
        Sandbox.create(**plane.sdk)


def test_timeout_limit(tmp_path: Path) -> None:
    """A timeout above the server's bound is refused, by create and by set_timeout."""
    with running_control_plane(tmp_path, max_timeout_s=100) as plane:
        with pytest.raises(SandboxException, match="longer than this server allows, 100 s"):
            Sandbox.create(timeout=101, **plane.sdk)
        sandbox = Sandbox.create(timeout=100, **plane.sdk)
        with pytest.raises(SandboxException, match="longer than this server allows"):
            sandbox.set_timeout(101)


def test_filters_and_pages(control_plane: ControlPlane) -> None:
    """Lists filter by metadata with awkward characters, keep the order and come in pages without gaps."""
    odd = {"a b": "c&d", "é%": "x=y+z"}
    ids = [Sandbox.create(metadata=odd if number % 2 else {}, **control_plane.sdk).sandbox_id for number in range(5)]
    found = Sandbox.list(query=SandboxQuery(metadata=odd), **api(control_plane)).next_items()
    assert [sandbox.sandbox_id for sandbox in found] == [ids[3], ids[1]]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        pages = Sandbox.list(limit=2, order=order, **api(control_plane))
        seen: list[str] = []
        while pages.has_next:
            seen += [sandbox.sandbox_id for sandbox in pages.next_items()]
        assert seen == expected


def test_idempotency_key(control_plane: ControlPlane) -> None:
    """The same key gives the same sandbox, another key another."""
    first, again, other = (Sandbox.create(idempotency_key=key, **control_plane.sdk) for key in ("one", "one", "two"))
    assert first.sandbox_id == again.sandbox_id != other.sandbox_id
    assert len(control_plane.node.sandboxes) == 2


def test_default_options_pass(control_plane: ControlPlane) -> None:
    """Options at the values that ask for nothing, and internet off, are accepted."""
    sandbox = Sandbox.create(lifecycle={"on_timeout": "kill"}, allow_internet_access=False, **control_plane.sdk)
    assert control_plane.node.find(sandbox.sandbox_id).request.egress.is_closed
    assert sandbox.get_info().allow_internet_access is False


def test_private_traffic(control_plane: ControlPlane) -> None:
    """Without public traffic the SDK's own calls pass, by the token that it was given."""
    sandbox = Sandbox.create(network={"allow_public_traffic": False}, **control_plane.sdk)
    assert sandbox.traffic_access_token
    assert sandbox.run_code("hello").text == "hello"


def test_supervisor_restart(control_plane: ControlPlane) -> None:
    """A creation asked for while the supervisor is away is done when it is back, and sandboxes answer throughout."""
    sandbox = Sandbox.create(**control_plane.sdk)
    assert sandbox.run_code("one").text == "one"
    control_plane.run(control_plane.node.die)
    assert sandbox.run_code("two").text == "two"
    control_plane.loop.call_soon_threadsafe(control_plane.loop.call_later, 0.5, lambda: asyncio.ensure_future(control_plane.node.start()))
    other = Sandbox.create(**control_plane.sdk)
    assert other.run_code("three").text == "three"
    assert len(Sandbox.list(**api(control_plane)).next_items()) == 2


def test_supervisor_death_during_a_creation(control_plane: ControlPlane) -> None:
    """A creation under way when the supervisor dies still ends with one sandbox that answers."""
    control_plane.node.create_delay_s = 0.5

    async def crash() -> None:
        await asyncio.sleep(0.2)
        await control_plane.node.die()
        control_plane.node.create_delay_s = 0
        await control_plane.node.start()

    control_plane.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(crash()))
    sandbox = Sandbox.create(**control_plane.sdk)
    assert sandbox.run_code("hello").text == "hello"
    assert control_plane.node.creates == 2
    assert list(control_plane.node.sandboxes) == [sandbox.sandbox_id]


def test_supervisor_stays_away(control_plane: ControlPlane) -> None:
    """With the supervisor away for good the SDK raises its error for a busy service."""
    control_plane.run(control_plane.node.die)
    with pytest.raises(Exception, match="503") as caught:
        Sandbox.create(retries=0, **control_plane.sdk)
    assert type(caught.value).__name__ == "ServiceBusyException"


def test_loss_while_the_supervisor_was_away(control_plane: ControlPlane) -> None:
    """A sandbox that the supervisor no longer has at its return is told as crashed; one killed meanwhile does not come back."""
    lost, killed = (Sandbox.create(**control_plane.sdk) for _ in range(2))
    control_plane.run(control_plane.node.die)
    gone = control_plane.node.sandboxes.pop(lost.sandbox_id)
    control_plane.run(gone.stack.aclose)
    assert killed.kill()
    control_plane.run(control_plane.node.start)
    wait_gone(lost)
    deadline = time.monotonic() + 5
    while control_plane.node.sandboxes:
        assert time.monotonic() < deadline, "the killed sandbox still lives"
        time.sleep(0.05)
    with pytest.raises(TimeoutException, match="crashed"):
        lost.run_code("x")


def test_api_restart(control_plane: ControlPlane) -> None:
    """After a restart of the api process its sandboxes, their tokens and their metadata are as before."""
    sandbox = Sandbox.create(metadata={"a": "b"}, **control_plane.sdk)
    control_plane.restart_api()
    assert sandbox.run_code("hello").text == "hello"
    assert sandbox.get_info().metadata == {"a": "b"}
    assert sandbox.kill()


def test_lost_store(control_plane: ControlPlane) -> None:
    """A sandbox that the store never heard of is taken over from the node with its tokens and metadata."""
    sandbox = Sandbox.create(metadata={"a": "b"}, **control_plane.sdk)

    control_plane.run(control_plane.server.close)
    with contextlib.closing(sqlite3.connect(control_plane.settings.data_dir / "api" / "cloister.db")) as database, database:
        database.execute("DELETE FROM sandboxes")
    control_plane.restart_api()
    assert sandbox.run_code("hello").text == "hello"
    assert sandbox.get_info().metadata == {"a": "b"}


def test_refusal_of_the_node(control_plane: ControlPlane) -> None:
    """A fault of the node reaches the client with its text, and leaves no sandbox behind."""
    control_plane.node.create_fault = NodeUnreachableError("the moon is in the way")
    with pytest.raises(Exception, match="the moon is in the way"):
        Sandbox.create(retries=0, **control_plane.sdk)
    assert Sandbox.list(**api(control_plane)).next_items() == []
