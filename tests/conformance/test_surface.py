"""The whole surface of the official SDKs, by introspection: each public method of a sandbox is called here.
Their errors are the business of ``test_errors.py``.

The calls are few and plain: what each method must do in detail is the business of the other modules.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import e2b
import pytest
from e2b import AsyncSandbox as BaseAsyncSandbox
from e2b import FileNotFoundException, PtySize
from e2b_code_interpreter import AsyncSandbox, Sandbox

from framework.control_plane import ControlPlane
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

HERE = Path(__file__).parent


def public(cls: type) -> set[str]:
    """The public methods of a class."""
    return {name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))}


class Tour:
    """An object of one of the SDKs, sync or async: every method is awaited, and noted under the object's class."""

    def __init__(self, inner: Any, called: set[str]) -> None:
        self.inner = inner
        self._called = called

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._called.add(name)
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the tours."""
    with Sandbox.create(timeout=600, **server.sdk) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two Python SDKs."""
    return str(request.param)


async def opened(kind: str, sandbox: Sandbox, server: Server) -> Any:
    """The sandbox by the SDK of that kind."""
    return sandbox if kind == "sync" else await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk)


def api_of(server: Server) -> dict[str, Any]:
    """The connection arguments of calls that do not reach into sandboxes."""
    return {"api_key": server.api_key, "api_url": server.url}


async def first_page(found: Any) -> Any:
    """The first page of a listing; the SDK asks the server only then."""
    return await Tour(found, set()).next_items()


async def test_sandbox(kind: str, server: Server) -> None:
    """Every method of a sandbox does its work."""
    called: set[str] = set()
    static = Tour(Sandbox if kind == "sync" else AsyncSandbox, called)
    inner = await static.create(timeout=120, metadata={"tour": kind}, **server.sdk)
    box = Tour(inner, called)
    try:
        await tour_of_sandbox(static, box, server)
        with pytest.raises(FileNotFoundException):
            await box.get_mcp_token()  # as of every sandbox that was made without MCP servers
    finally:
        await box.kill()
    assert not await box.is_running()
    assert called == public(type(inner))


async def tour_of_sandbox(static: Tour, box: Tour, server: Server) -> None:
    """All but ``kill``."""
    inner, api = box.inner, api_of(server)
    assert await box.is_running()
    assert (await box.get_info()).sandbox_id == inner.sandbox_id
    await box.set_timeout(300)
    await box.update_network({"deny_out": ["192.0.2.1"]}, **api)
    assert (await box.get_info()).network == {"deny_out": ["192.0.2.1"]}
    assert inner.sandbox_id in [one.sandbox_id for one in await first_page(await static.list(**api))]
    assert (await static.connect(inner.sandbox_id, **server.sdk)).sandbox_id == inner.sandbox_id
    assert isinstance(await box.get_metrics(), list)
    snapshot = await box.create_snapshot()
    assert snapshot.snapshot_id in [one.snapshot_id for one in await first_page(await box.list_snapshots(**api))]
    assert await box.delete_snapshot(snapshot.snapshot_id, **api)
    assert (await box.get_host(80)).startswith(f"80-{inner.sandbox_id}.")
    assert "signature=" in await box.upload_url("x")
    assert "signature=" in await box.download_url("x")
    assert (await box.get_mcp_url()).endswith("/mcp")
    assert (await box.run_code("1 + 1")).text == "2"
    for pause in (box.pause, box.beta_pause):
        assert await pause()
        assert not await box.is_running()
        await box.connect()
    (copy,) = await box.fork(timeout=60, api_headers={"X-Fork-Memory": "false"})
    assert await Tour(copy, set()).kill()
    context = await box.create_code_context(language="python")
    await box.run_code("x = 1", context=context)
    await box.restart_code_context(context)
    assert (await box.run_code("x", context=context)).error.name == "NameError"
    await box.remove_code_context(context)
    assert context.id not in [one.id for one in await box.list_code_contexts()]


async def test_commands(kind: str, sandbox: Sandbox, server: Server) -> None:
    """Every method of ``commands`` and of a command's handle."""
    called: set[str] = set()
    by_handle: set[str] = set()
    inner = (await opened(kind, sandbox, server)).commands
    commands = Tour(inner, called)
    assert (await commands.run("echo $0")).stdout == "/bin/bash\n"
    handle = await commands.run("cat", background=True, stdin=True)
    cat = Tour(handle, by_handle)
    assert handle.pid in [one.pid for one in await commands.list()]
    await commands.send_stdin(handle.pid, "a")
    await cat.send_stdin("b")
    await stream_input(commands, kind, handle.pid, "c")
    await cat.close_stdin()
    assert (await cat.wait()).stdout == "abc"
    other = await commands.run("cat", background=True, stdin=True)
    await commands.close_stdin(other.pid)
    await Tour(other, set()).wait()
    sleeper = await commands.run("sleep 100", background=True)
    await Tour(sleeper, by_handle).disconnect()
    assert (await commands.connect(sleeper.pid)).pid == sleeper.pid
    assert await Tour(sleeper, by_handle).kill()
    assert not await commands.kill(sleeper.pid)
    assert called == public(type(inner))
    assert by_handle == public(type(handle)) - {"pid"}


async def stream_input(target: Tour, kind: str, pid: int, text: str) -> None:
    """Send ``text`` by a stream of input: the synchronous SDK takes an iterator, the asynchronous one gives a handle."""
    if kind == "sync":
        await target.stream_input(pid, iter([text]))
    else:
        stream = await target.stream_input(pid)
        await stream.send(text)
        await stream.close()


async def test_pty(kind: str, sandbox: Sandbox, server: Server) -> None:
    """Every method of ``pty``."""
    called: set[str] = set()
    inner = (await opened(kind, sandbox, server)).pty
    pty, shown = Tour(inner, called), bytearray()
    on_data = {} if kind == "sync" else {"on_data": shown.extend}
    handle = await pty.create(size=PtySize(10, 20), **on_data)
    await pty.resize(handle.pid, PtySize(11, 21))
    await Tour(handle, set()).disconnect()
    again = await pty.connect(handle.pid, **on_data)
    await stream_input(pty, kind, handle.pid, "stty size; ")
    await pty.send_stdin(handle.pid, b"exit\n")
    await Tour(again, set()).wait(**({"on_pty": shown.extend} if kind == "sync" else {}))
    assert b"11 21" in shown
    assert not await pty.kill(handle.pid)
    assert called == public(type(inner))


async def test_files(kind: str, sandbox: Sandbox, server: Server) -> None:
    """Every method of ``files`` and of a watch's handle."""
    called: set[str] = set()
    by_watch: set[str] = set()
    inner = (await opened(kind, sandbox, server)).files
    files = Tour(inner, called)
    seen: list[Any] = []
    assert await files.make_dir(kind)
    watch = await files.watch_dir(kind, **({} if kind == "sync" else {"on_event": seen.append}))
    assert (await files.write(f"{kind}/a", "A")).name == "a"
    assert len(await files.write_files([{"path": f"{kind}/b", "data": "B"}])) == 1
    assert (await files.rename(f"{kind}/b", f"{kind}/c")).name == "c"
    assert await files.read(f"{kind}/c") == "B"
    assert (await files.get_info(f"{kind}/a")).size == 1
    assert sorted(one.name for one in await files.list(kind)) == ["a", "c"]
    await files.remove(f"{kind}/c")
    assert not await files.exists(f"{kind}/c")
    while "c" not in [event.name for event in seen]:
        if kind == "sync":
            seen += await Tour(watch, by_watch).get_new_events()
        await asyncio.sleep(0.02)
    await Tour(watch, by_watch).stop()
    assert called == public(type(inner))
    assert by_watch == public(type(watch))


async def test_git(kind: str, sandbox: Sandbox, server: Server) -> None:
    """Every method of ``git``, with a directory as the other side; ``test_git.py`` has a real one."""
    called: set[str] = set()
    inner = (await opened(kind, sandbox, server)).git
    git, work, other = Tour(inner, called), f"/home/user/{kind}-w", f"/home/user/{kind}-r.git"
    await git.init(other, bare=True, initial_branch="main")
    await git.init(work, initial_branch="main")
    await git.configure_user("A", "a@example.com")
    await git.set_config("pull.rebase", "false")
    assert await git.get_config("user.name") == "A"
    await git.dangerously_authenticate("u", "p", host="git.example.com")
    sandbox.files.write(f"{work}/f", "1")
    await git.add(work)
    await git.commit(work, "one")
    await git.remote_add(work, "origin", other)
    assert await git.remote_get(work, "origin") == other
    await git.push(work, remote="origin", branch="main")
    await git.clone(other, f"{work}-copy", branch="main")
    await git.pull(f"{work}-copy")
    await git.create_branch(work, "b")
    await git.checkout_branch(work, "main")
    await git.delete_branch(work, "b")
    assert (await git.branches(work)).branches == ["main"]
    sandbox.files.write(f"{work}/f", "2")
    await git.add(work)
    await git.restore(work, paths=["f"], staged=True, worktree=False)
    await git.reset(work, mode="hard")
    assert (await git.status(work)).is_clean
    assert called == public(type(inner))


def declared(text: str, *names: str) -> set[str]:
    """The public methods that a TypeScript declaration file gives the classes ``names``, static ones included."""
    found: set[str] = set()
    for name in names:
        body = re.search(rf"^declare class {name}\b.*?^}}", text, re.MULTILINE | re.DOTALL)
        assert body is not None, name
        found |= set(re.findall(r"^  (?:static )?(\w+)(?:<[^(]*>)?\(", body[0], re.MULTILINE)) - {"constructor"}
    return found


def test_javascript(server: Server) -> None:
    """The same of the JavaScript SDK: its declarations say what is public."""
    packages = HERE / "js" / "node_modules"
    base = (packages / "e2b/dist/index.d.ts").read_text()
    interpreter = (packages / "@e2b/code-interpreter/dist/index.d.ts").read_text()
    wanted = {name: declared(base, name) for name in ("Commands", "CommandHandle", "Pty", "Filesystem", "WatchHandle", "Git")}
    wanted["Sandbox"] = declared(base, "Sandbox", "SandboxApi") | declared(interpreter, "Sandbox")
    environ = {"PATH": os.environ["PATH"], **server.environ}
    done = subprocess.run(["node", "surface.mjs"], cwd=HERE / "js", env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {name: set(methods) for name, methods in seen["called"].items()} == wanted
    missing = seen["refused"].pop("getMcpToken")
    assert missing.startswith("FileNotFoundError: ")
    assert seen["refused"] == {}


def test_a_sandbox_that_has_ended(server: Server) -> None:
    """Every part of the SDK says that the sandbox is not running, and why."""
    sandbox = Sandbox.create("base", timeout=60, **server.sdk)
    sandbox.kill()
    calls: list[Callable[[], Any]] = [
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.files.read("x"),
        lambda: sandbox.pty.create(PtySize(9, 9)),
    ]
    for call in calls:
        with pytest.raises(e2b.SandboxNotRunningException, match="was not found"):
            call()
    with pytest.raises(e2b.TimeoutException, match="was not found"):
        sandbox.run_code("1")


def test_a_sandbox_that_does_not_answer(control_plane: ControlPlane) -> None:
    """A sandbox that runs, but whose agent cannot be reached, is told from one that has ended."""
    api: dict[str, Any] = control_plane.sdk
    sandbox = Sandbox.create(retries=0, **api)
    control_plane.run(control_plane.node.find(sandbox.sandbox_id).stack.aclose)
    with pytest.raises(e2b.SandboxUnreachableException, match="port is not open"):
        sandbox.commands.run("true")


def test_a_server_that_is_busy(control_plane: ControlPlane) -> None:
    """A creation for which there is no room now can be tried again, and says so by its class."""
    from cloister.errors import NoCapacityError

    api: dict[str, Any] = control_plane.sdk
    control_plane.node.create_fault = NoCapacityError("no room for another sandbox")
    with pytest.raises(e2b.ServiceBusyException, match="no room for another sandbox"):
        Sandbox.create(retries=0, **api)


def test_the_base_sandbox_is_a_part() -> None:
    """The code interpreter's sandbox, which the tours use, has all methods of the base SDK's, so none is left out."""
    assert public(e2b.Sandbox) <= public(Sandbox)
    assert public(BaseAsyncSandbox) <= public(AsyncSandbox)
