"""Watching directories by the official SDKs: polled by the synchronous one, streamed by the asynchronous one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import AsyncSandbox, FileNotFoundException, FilesystemEventType, InvalidArgumentException, NotFoundException, SandboxException
from e2b.sandbox_sync.filesystem.watch_handle import WatchHandle
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the module; each test watches a directory of its own."""
    made = Sandbox.create(timeout=600, **server.sdk)
    yield made
    made.kill()


def told(handle: WatchHandle) -> list[str]:
    """The new events as text."""
    return [f"{event.type.value} {event.name}" for event in handle.get_new_events()]


def test_the_life_of_a_file(sandbox: Sandbox) -> None:
    """Writing a new file is three events, overwriting one, and all are there in the very next poll."""
    sandbox.files.make_dir("life/below")
    handle = sandbox.files.watch_dir("life")
    sandbox.files.write("life/a", "1")
    assert told(handle) == ["create a", "chmod a", "write a"]
    sandbox.files.write("life/a", "2")
    assert told(handle) == ["write a"]
    sandbox.files.rename("life/a", "life/b")
    assert told(handle) == ["rename a", "create b"]
    sandbox.files.remove("life/b")
    assert told(handle) == ["remove b"]
    sandbox.files.write("life/below/x", "not recursive")
    assert told(handle) == []
    handle.stop()
    with pytest.raises(SandboxException):
        handle.get_new_events()


def test_what_programs_write(sandbox: Sandbox) -> None:
    """A program's own writes are told as the kernel tells them."""
    sandbox.files.make_dir("program")
    handle = sandbox.files.watch_dir("program")
    shell(sandbox, "cd /home/user/program && echo x > s && chmod 600 s && rm s", user="user")
    events = told(handle)
    assert list(dict.fromkeys(events)) == ["create s", "write s", "chmod s", "remove s"]


def test_entries(sandbox: Sandbox) -> None:
    """With entries asked for, an event says what is there now, and nothing of what is gone."""
    sandbox.files.make_dir("entries")
    handle = sandbox.files.watch_dir("entries", include_entry=True)
    sandbox.files.write("entries/a", "12345", metadata={"k": "v"})
    event = handle.get_new_events()[0]
    assert event.entry is not None
    assert (event.entry.path, event.entry.size, event.entry.metadata) == ("/home/user/entries/a", 5, {"k": "v"})
    sandbox.files.remove("entries/a")
    assert [(one.type, one.entry) for one in handle.get_new_events()] == [(FilesystemEventType.REMOVE, None)]


def test_new_subdirectories(sandbox: Sandbox) -> None:
    """Whatever appears below a recursive watch is told, however fast its directories are made, filled, moved and removed."""
    sandbox.files.make_dir("deep/there")
    handle = sandbox.files.watch_dir("deep", recursive=True)
    shell(sandbox, "cd /home/user/deep && for i in $(seq 200); do mkdir -p d$i/e/f && echo x > d$i/e/f/g; done", user="user")
    events = told(handle)
    assert {f"create d{i}/e/f/g" for i in range(1, 201)} <= set(events)
    assert {f"write d{i}/e/f/g" for i in range(1, 201)} <= set(events)
    assert all(events.count(f"create d{i}/e/f/g") == 1 for i in range(1, 201))
    sandbox.files.rename("deep/d1", "deep/there/moved")
    sandbox.files.write("deep/there/moved/e/new", "")
    assert told(handle)[:3] == ["rename d1", "create there/moved", "create there/moved/e/new"]
    sandbox.files.rename("deep/d2", "outside")
    sandbox.files.write("outside/e/unseen", "")
    assert told(handle) == ["rename d2"]
    sandbox.files.rename("outside", "deep/back")
    events = told(handle)
    assert events[0] == "create back"
    assert {"create back/e", "create back/e/f/g", "create back/e/unseen"} <= set(events)
    sandbox.files.write("deep/back/e/f/g", "again")
    assert told(handle) == ["write back/e/f/g"]
    sandbox.files.remove("deep/back")
    assert told(handle)[-1] == "remove back"


def test_two_watches_of_one_directory(sandbox: Sandbox) -> None:
    """Watches do not take events from one another, and one that ends leaves the other."""
    sandbox.files.make_dir("two/below")
    outer, inner = sandbox.files.watch_dir("two", recursive=True), sandbox.files.watch_dir("two/below")
    sandbox.files.write("two/below/a", "")
    assert told(outer)[0] == "create below/a"
    assert told(inner)[0] == "create a"
    outer.stop()
    sandbox.files.remove("two/below/a")
    assert told(inner) == ["remove a"]


def test_a_burst(sandbox: Sandbox) -> None:
    """Five thousand files written at once are all told, or the client hears that events were lost."""
    sandbox.files.make_dir("burst")
    handle = sandbox.files.watch_dir("burst", recursive=True)
    shell(sandbox, "python3 -c \"[open(f'/home/user/burst/{i}', 'w').write('x') for i in range(5000)]\"", user="user")
    try:
        created = {event.name for event in handle.get_new_events() if event.type == FilesystemEventType.CREATE}
    except SandboxException as error:
        assert "were lost" in str(error)  # noqa: PT017 - the other permitted outcome
    else:
        assert created == {str(i) for i in range(5000)}


def test_a_flood_is_bounded_and_told(sandbox: Sandbox) -> None:
    """More events than are kept give an error that says so, once; the watch goes on afterwards."""
    sandbox.files.make_dir("flood")
    handle = sandbox.files.watch_dir("flood")
    sandbox.files.write(
        "flood.py",
        "import os\n"
        "for i in range(45_000):\n"
        "    path = f'/home/user/flood/{i % 7}'\n"
        "    fd = os.open(path, os.O_CREAT | os.O_WRONLY)\n"
        "    os.write(fd, b'x')\n"
        "    os.close(fd)\n"
        "    os.unlink(path)\n",
    )
    shell(sandbox, "python3 /home/user/flood.py", user="user", timeout=120)
    with pytest.raises(SandboxException, match="were lost"):
        handle.get_new_events()
    handle.get_new_events()
    sandbox.files.write("flood/after", "")
    assert told(handle)[0] == "create after"


def test_the_directory_itself(sandbox: Sandbox) -> None:
    """The end of the watched directory is told."""
    sandbox.files.make_dir("self")
    handle = sandbox.files.watch_dir("self")
    sandbox.files.remove("self")
    assert told(handle) == ["remove ."]
    handle.stop()


def test_what_cannot_be_watched(sandbox: Sandbox) -> None:
    """Files, missing directories, other users' directories and unknown watchers are errors of their own."""
    sandbox.files.write("file", "")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.watch_dir("file")
    with pytest.raises(FileNotFoundException):
        sandbox.files.watch_dir("nothing-there")
    with pytest.raises(SandboxException, match="permission denied"):
        sandbox.files.watch_dir("/root", user="user")
    handle = sandbox.files.watch_dir("/home/user")
    handle._watcher_id = "unknown"
    with pytest.raises(NotFoundException):
        handle.get_new_events()


async def test_streamed_events(server: Server, sandbox: Sandbox) -> None:
    """The asynchronous SDK is told at once, until it stops; ending is told too."""
    options: dict[str, Any] = dict(server.sdk)
    async_sandbox = await AsyncSandbox.connect(sandbox.sandbox_id, **options)
    await async_sandbox.files.make_dir("stream")
    seen: asyncio.Queue[str] = asyncio.Queue()
    ended: asyncio.Queue[Exception | None] = asyncio.Queue()
    handle = await async_sandbox.files.watch_dir(
        "stream", lambda event: seen.put_nowait(f"{event.type.value} {event.name}"), ended.put_nowait, recursive=True
    )
    await async_sandbox.files.write("stream/a/b", "1")
    async with asyncio.timeout(20):
        assert [await seen.get(), await seen.get()] == ["create a", "create a/b"]
        await async_sandbox.files.write("stream/a/c", "1")  # "a/b" may have been written before "a" was watched; this one is not
        got = [await seen.get()]
        while got[-1] != "write a/c":
            got.append(await seen.get())
    assert [one for one in got if one.endswith("c")] == ["create a/c", "chmod a/c", "write a/c"]
    assert {one for one in got if not one.endswith("c")} <= {"chmod a/b", "write a/b"}
    await handle.stop()
    assert await ended.get() is None
    limited = await async_sandbox.files.watch_dir("stream", lambda _: None, ended.put_nowait, timeout=1)
    async with asyncio.timeout(10):
        assert isinstance(await ended.get(), Exception)
    await limited.stop()


def test_abandoned_watches_are_bounded(sandbox: Sandbox) -> None:
    """There is a bound of watches, with an error that names it; removing one makes room."""
    sandbox.files.make_dir("bound")
    handles: list[WatchHandle] = []

    def watch_many() -> None:
        while len(handles) < 300:
            handles.append(sandbox.files.watch_dir("bound"))

    with pytest.raises(SandboxException, match="watches"):
        watch_many()
    for handle in handles:
        handle.stop()
    sandbox.files.watch_dir("bound").stop()
