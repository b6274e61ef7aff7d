"""Forks of files by the official Python SDKs: independent copies, and answers by state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from e2b import AsyncSandbox, InvalidArgumentException, Sandbox, SandboxException, SandboxNotFoundException

from framework.lifecycles import api, boot_id, lifetime_s, new, state
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

FILES: dict[str, Any] = {"api_headers": {"X-Fork-Memory": "false"}}


def only_sandboxes(copies: list[Any]) -> list[Any]:
    """The copies; none may have failed."""
    assert not [one for one in copies if isinstance(one, Exception)], copies
    return copies


@pytest.mark.parametrize("count", [None, 1, 2, 5])
def test_copies_are_independent(count: int | None, server: Server) -> None:
    """A copy has its own id, boot, lifetime and writes, and the files and metadata of the original."""
    with new(server, metadata={"of": "fork"}, envs={"SHARED": "sandbox"}) as sandbox:
        sandbox.files.write("note", "before")
        before = sandbox.get_info()
        copies: list[Sandbox] = only_sandboxes(sandbox.fork(count=count, timeout=77, **FILES))
        everyone = [sandbox, *copies]
        try:
            assert len(copies) == (count or 1)
            assert len({one.sandbox_id for one in everyone}) == len({boot_id(one) for one in everyone}) == len(everyone)
            for number, copy in enumerate(copies):
                info = copy.get_info()
                assert (info.template_id, info.name, info.metadata) == (before.template_id, before.name, before.metadata)
                assert abs(lifetime_s(server, copy.sandbox_id) - 77) < 1
                assert copy.commands.run("cat note; hostname").stdout == f"before{copy.sandbox_id}\n"
                copy.files.write("note", str(number))
                assert copy.commands.list() == []
            assert [copy.files.read("note") for copy in copies] == [str(number) for number in range(len(copies))]
            assert sandbox.files.read("note") == "before"
            after = sandbox.get_info()
            assert (after.started_at, after.end_at) == (before.started_at, before.end_at)
            drawn = {one.commands.run("python3 -c 'import random, uuid; print(random.random(), uuid.uuid4())'").stdout for one in everyone}
            assert len(drawn) == len(everyone)
        finally:
            for copy in copies:
                copy.kill()


async def test_the_async_sdk(server: Server) -> None:
    """The asynchronous SDK forks by object and by id, and the original's processes run on."""
    sandbox = await AsyncSandbox.create("base", timeout=300, **server.sdk)
    command = await sandbox.commands.run("sleep 1000", background=True)
    await sandbox.files.write("note", "before")
    copies = only_sandboxes(await sandbox.fork(count=2, **FILES))
    copies += only_sandboxes(await AsyncSandbox.fork(sandbox.sandbox_id, **server.sdk, **FILES))
    assert await asyncio.gather(*(copy.files.read("note") for copy in copies)) == ["before"] * 3
    assert [one.pid for one in await sandbox.commands.list()] == [command.pid]
    assert await asyncio.gather(*(one.kill() for one in [*copies, sandbox])) == [True] * 4


def test_copies_of_copies(server: Server) -> None:
    """A copy can be forked, paused and resumed like any sandbox, also after its original has ended."""
    with new(server) as sandbox:
        sandbox.files.write("note", "first")
        (copy,) = only_sandboxes(sandbox.fork(timeout=300, **FILES))
    copy.files.write("more", "second")
    assert copy.pause(mode="filesystem")
    copy.connect(timeout=300)
    (third,) = only_sandboxes(copy.fork(timeout=300, **FILES))
    copy.kill()
    assert third.commands.run("cat note more").stdout == "firstsecond"
    third.kill()


def test_answers(server: Server) -> None:
    """A paused sandbox is 409, a killed or unknown one 404; wrong numbers are 400."""
    with new(server) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}/fork"
        for body in ({"count": 0}, {"count": 101}, {"timeout": 0}, {"timeout": -1}, {"timeout": 10**9}, {"count": "2"}):
            answer = api(server, "POST", path, {"memory": False, **body})
            assert answer.status == 400, (body, answer.body)
        for count in (0, 21, True):
            with pytest.raises(InvalidArgumentException):
                sandbox.fork(count=count, **FILES)
        assert sandbox.pause()
        assert api(server, "POST", path, {"memory": False}).status == 409
        with pytest.raises(SandboxException) as caught:
            sandbox.fork(**FILES)
        assert caught.value.status_code == 409
        assert state(server, sandbox.sandbox_id) == "paused"
    for gone in (sandbox.sandbox_id, "a" * 20):
        with pytest.raises(SandboxNotFoundException):
            Sandbox.fork(gone, **server.sdk, **FILES)


def test_memory_is_named_where_it_cannot_be_copied(server: Server) -> None:
    """A fork with memory, on a server without checkpoints, is refused with the way to fork the files."""
    with new(server) as sandbox:
        with pytest.raises(SandboxException, match=r"checkpoint.*X-Fork-Memory") as caught:
            sandbox.fork()
        assert caught.value.status_code == 400
        assert sandbox.is_running()


def test_copies_fail_one_by_one(stock_templates: None) -> None:
    """A quota with room for one copy of two gives a sandbox and an error."""
    with running_server("--max-sandboxes-per-team", "3", "--pool-size", "0") as small:
        sandbox, other = (Sandbox.create("base", timeout=300, **small.sdk) for _ in range(2))
        copies = sandbox.fork(count=2, **FILES)
        assert sorted(type(one).__name__ for one in copies) == ["RateLimitException", "Sandbox"]
        for one in (sandbox, other, *(copy for copy in copies if isinstance(copy, Sandbox))):
            assert one.kill()
