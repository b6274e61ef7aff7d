"""Everything below ``sandbox.files`` of the official SDKs, against real sandboxes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    NotEnoughSpaceException,
    SandboxException,
)
from e2b_code_interpreter import Sandbox

from framework.inside import FILL_DISK, shell
from framework.server import Server

JS = Path(__file__).parent / "js"
pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the module; each test works below a directory of its own."""
    made = Sandbox.create(timeout=600, **server.sdk)
    yield made
    made.kill()


@pytest.fixture
async def async_sandbox(server: Server, sandbox: Sandbox) -> AsyncSandbox:
    """The same sandbox by the asynchronous SDK."""
    options: dict[str, Any] = dict(server.sdk)
    connected: AsyncSandbox = await AsyncSandbox.connect(sandbox.sandbox_id, **options)
    return connected


@pytest.mark.parametrize("data", ["", "text é\n", b"\0\xff" * 10, "x" * 3_000_000])
@pytest.mark.parametrize("compressed", [False, True])
def test_write_and_read(sandbox: Sandbox, data: str | bytes, *, compressed: bool) -> None:
    """Reads return the written bytes, in every format, with and without compression."""
    raw = data.encode() if isinstance(data, str) else data
    written = sandbox.files.write("rw/a file.txt", data, gzip=compressed)
    assert (written.name, written.type, written.path) == ("a file.txt", FileType.FILE, "/home/user/rw/a file.txt")
    assert sandbox.files.read("rw/a file.txt", format="bytes", gzip=compressed) == raw
    assert b"".join(sandbox.files.read("~/rw/a file.txt", format="stream", gzip=compressed)) == raw
    if isinstance(data, str):
        assert sandbox.files.read("/home/user/rw/a file.txt", gzip=compressed) == data


@pytest.mark.parametrize("octet_stream", [None, True, False])
def test_write_from_a_file_object(sandbox: Sandbox, octet_stream: bool | None) -> None:
    """A file object and an iterator of chunks are streamed, by either kind of upload."""
    data = os.urandom(1_500_000)
    sandbox.files.write("stream/one", io.BytesIO(data), use_octet_stream=octet_stream)
    assert sandbox.files.read("stream/one", format="bytes") == data
    if octet_stream is not False:
        sandbox.files.write("stream/two", (data[at : at + 100_000] for at in range(0, len(data), 100_000)), use_octet_stream=octet_stream)
        assert sandbox.files.read("stream/two", format="bytes") == data


def test_write_many(sandbox: Sandbox) -> None:
    """Several files in one request, with names that need quoting, absolute and relative."""
    names = ["many/plain", "/home/user/many/b/é ü.txt", 'many/quo"te', "many/back\\slash", "many/semi;colon=x", "many/%41"]
    written = sandbox.files.write_files([{"path": name, "data": f"data of {name}"} for name in names])
    assert [one.path for one in written] == [name if name.startswith("/") else f"/home/user/{name}" for name in names]
    assert [sandbox.files.read(name) for name in names] == [f"data of {name}" for name in names]
    assert sandbox.files.write_files([]) == []


def test_one_path_twice(sandbox: Sandbox) -> None:
    """The same path twice in one request is an error, also when it is written differently."""
    with pytest.raises(InvalidArgumentException, match="same path"):
        sandbox.files.write_files([{"path": "twice/a", "data": "1"}, {"path": "/home/user/twice/./a", "data": "2"}])


def in_python(sandbox: Sandbox, code: str) -> str:
    """Output of Python inside, where ``path`` is the file of the metadata test."""
    return shell(sandbox, f"python3 -c \"import os; path = '/home/user/meta/a'; {code}\"").text


def test_metadata(sandbox: Sandbox) -> None:
    """Metadata is told by every call, replaced by the next write, and the same as set inside by extended attributes."""
    written = sandbox.files.write("meta/a", "1", metadata={"Author": "me", "k.2": ""})
    assert written.metadata == {"author": "me", "k.2": ""}
    assert sandbox.files.get_info("meta/a").metadata == {"author": "me", "k.2": ""}
    assert sandbox.files.list("meta")[0].metadata == {"author": "me", "k.2": ""}
    assert in_python(sandbox, "print(os.getxattr(path, 'user.e2b.author').decode())") == "me"
    in_python(sandbox, "os.setxattr(path, 'user.e2b.inside', b'yes'); os.setxattr(path, 'user.other', b'x')")
    assert sandbox.files.get_info("meta/a").metadata == {"author": "me", "k.2": "", "inside": "yes"}
    sandbox.files.write("meta/a", "2", metadata={"new": "1"})
    assert sandbox.files.get_info("meta/a").metadata == {"new": "1"}
    assert in_python(sandbox, "print(os.getxattr(path, 'user.other').decode())") == "x"
    sandbox.files.write("meta/a", "3")
    assert sandbox.files.get_info("meta/a").metadata is None
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write("meta/b", "1", metadata={"k": "v" * 5000})


def test_info(sandbox: Sandbox) -> None:
    """Every field of an entry, of a file, a directory and links."""
    sandbox.files.write("info/d/file", "12345")
    shell(
        sandbox,
        "cd /home/user/info && chmod 640 d/file && ln -s d/file link && ln -s d dir && ln -s nowhere dangling && chown -h root:root link",
    )
    file = sandbox.files.get_info("info/d/file")
    assert (file.name, file.type, file.path, file.size) == ("file", FileType.FILE, "/home/user/info/d/file", 5)
    assert (file.mode, file.permissions, file.owner, file.group, file.symlink_target) == (0o640, "-rw-r-----", "user", "user", None)
    directory = sandbox.files.get_info("info/d")
    assert (directory.type, directory.mode, directory.permissions) == (FileType.DIR, 0o755, "drwxr-xr-x")
    link = sandbox.files.get_info("info/link")
    assert (link.type, link.symlink_target, link.mode, link.owner) == (FileType.FILE, "/home/user/info/d/file", 0o640, "root")
    assert sandbox.files.get_info("info/dir").type == FileType.DIR
    dangling = sandbox.files.get_info("info/dangling")
    assert (dangling.type, dangling.symlink_target) == (FileType.SYMLINK, "/home/user/info/nowhere")
    assert sandbox.files.exists("info/dangling")
    modified = shell(sandbox, "stat -c %.Y /home/user/info/d/file").text
    assert abs(file.modified_time.timestamp() - float(modified)) < 0.001


def test_list(sandbox: Sandbox) -> None:
    """Lists are in order, directories before what is in them, as deep as asked; a link is followed only as the root."""
    sandbox.files.write_files([{"path": f"list/{name}", "data": ""} for name in ("b/c/d", "b/a", "a", "z")])
    shell(sandbox, "ln -s /home/user/list/b /home/user/list/link")
    assert [one.name for one in sandbox.files.list("list")] == ["a", "b", "link", "z"]
    assert [one.path for one in sandbox.files.list("list", depth=2)] == [
        f"/home/user/list/{name}" for name in ("a", "b", "b/a", "b/c", "link", "z")
    ]
    assert [one.name for one in sandbox.files.list("list", depth=10)] == ["a", "b", "a", "c", "d", "link", "z"]
    assert [one.path for one in sandbox.files.list("list/link")] == ["/home/user/list/link/a", "/home/user/list/link/c"]
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list("list/a")
    with pytest.raises(FileNotFoundException):
        sandbox.files.list("list/nothing")


def test_directories(sandbox: Sandbox) -> None:
    """Making a directory makes those above it, and says when it was there; a file in the way is an error."""
    assert sandbox.files.make_dir("dirs/a/b") is True
    assert sandbox.files.make_dir("dirs/a/b") is False
    sandbox.files.write("dirs/file", "")
    for path in ("dirs/file", "dirs/file/below"):
        with pytest.raises(InvalidArgumentException):
            sandbox.files.make_dir(path)


def test_rename(sandbox: Sandbox) -> None:
    """Files and directories move, also onto a file, into directories that are made, to other file systems and out of template layers."""
    files = sandbox.files
    files.write("move/a", "a")
    moved = files.rename("move/a", "move/new/b")
    assert (moved.path, moved.size, files.exists("move/a"), files.read("move/new/b")) == ("/home/user/move/new/b", 1, False, "a")
    files.write("move/c", "c")
    files.rename("move/c", "move/new/b")
    assert files.read("move/new/b") == "c"
    files.rename("move/new", "/dev/shm/new")
    assert (files.read("/dev/shm/new/b"), files.exists("move/new")) == ("c", False)
    shell(sandbox, "cp -r /usr/share/doc/bash /home/user/move/ && test -d /opt")
    files.rename("/usr/share/doc/bash", "/usr/share/doc/bash2", user="root")
    assert files.exists("/usr/share/doc/bash2")
    assert not files.exists("/usr/share/doc/bash")
    with pytest.raises(FileNotFoundException):
        files.rename("move/nothing", "move/x")
    files.write_files([{"path": "move/d1/x", "data": ""}, {"path": "move/d2/x", "data": ""}])
    with pytest.raises(SandboxException, match="not empty"):
        files.rename("move/d1", "move/d2")


def test_remove(sandbox: Sandbox) -> None:
    """Trees and links go, what links lead to stays, and what is not there is removed already."""
    sandbox.files.write("gone/keep/x", "x")
    sandbox.files.write("gone/tree/a/b/c", "")
    shell(sandbox, "ln -s /home/user/gone/keep /home/user/gone/tree/link")
    sandbox.files.remove("gone/tree")
    sandbox.files.remove("gone/tree")
    assert not sandbox.files.exists("gone/tree")
    assert sandbox.files.read("gone/keep/x") == "x"
    with pytest.raises(InvalidArgumentException):
        sandbox.files.remove("/", user="root")


def test_symlinks_are_written_through(sandbox: Sandbox) -> None:
    """Writing to a link writes what it leads to, also when that is not there yet; the link stays."""
    sandbox.files.write("links/real/old", "old")
    shell(sandbox, "cd /home/user/links && ln -s real/old one && ln -s ../links/one two && ln -s real/new three", user="user")
    sandbox.files.write("links/two", "new")
    sandbox.files.write("links/three", "made")
    assert (sandbox.files.read("links/real/old"), sandbox.files.read("links/real/new")) == ("new", "made")
    assert sandbox.files.get_info("links/two").symlink_target == "/home/user/links/real/old"


def test_what_was_there_is_kept(sandbox: Sandbox) -> None:
    """Overwriting keeps mode and owner, and hard links stay one file."""
    sandbox.files.write("kept/a", "1")
    shell(
        sandbox, "cd /home/user/kept && chmod 755 a && echo > r && chown root:root r && chmod 666 r && echo > h && ln h h2 && chmod 666 h"
    )
    for name in ("a", "r", "h"):
        sandbox.files.write(f"kept/{name}", "written")
    assert shell(sandbox, "cd /home/user/kept && stat -c '%a %U %G' a r h").text.splitlines() == [
        "755 user user",
        "666 root root",
        "666 root root",
    ]
    assert [sandbox.files.read(f"kept/{name}") for name in ("a", "r", "h2")] == ["written"] * 3


def test_users(sandbox: Sandbox) -> None:
    """Files belong to the user who is named, relative paths begin at their home, and who is named has no more rights than that."""
    sandbox.files.write("owned/x", "1")
    sandbox.files.write("owned/y", "1", user="root")
    assert sandbox.files.get_info("owned/x").owner == "user"
    assert sandbox.files.get_info("/root/owned/y", user="root").owner == "root"
    assert sandbox.files.read("/etc/shadow", user="root")
    files = sandbox.files
    refused: list[Callable[[], object]] = [
        lambda: files.read("/etc/shadow", user="user"),
        lambda: files.write("/etc/x", "", user="user"),
        lambda: files.write("/etc/hostname", "", user="user"),
        lambda: files.remove("/etc/hostname", user="user"),
        lambda: files.rename("/etc/hostname", "x", user="user"),
        lambda: files.make_dir("/etc/x", user="user"),
        lambda: files.list("/root", user="user"),
        lambda: files.get_info("/root/owned", user="user"),
        lambda: files.exists("/root/owned", user="user"),
        lambda: files.read("/proc/self/environ", user="root"),
        lambda: files.read("/proc/self/mem", user="root"),
    ]
    for action in refused:
        with pytest.raises(SandboxException, match="permission denied"):
            action()
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        files.read("x", user="nobody-here")
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        files.list("/", user="nobody-here")


def test_odd_paths(sandbox: Sandbox) -> None:
    """Long names, NUL, devices and files on the way are errors of their own; nothing of it disturbs the agent."""
    files = sandbox.files
    files.write("odd/file", "")
    shell(sandbox, "mkfifo /home/user/odd/pipe; ln -s loop /home/user/odd/loop")
    long = ["x" * 10_000, "y/" * 5_000, "z" * 256]
    for path in [*long, "odd/file/below", "odd/loop", "odd/pipe", "/dev/null", "odd/a\0b", "~nobody/x", "/"]:
        with pytest.raises(InvalidArgumentException):
            files.read(path)
        with pytest.raises(InvalidArgumentException):
            files.write(path, "x")
    with pytest.raises(FileNotFoundException):
        files.read("odd/nothing")
    files.write("../../../home/user/odd/é\n\t", "odd")
    assert files.read("odd/é\n\t") == "odd"
    assert "MemTotal" in files.read("/proc/meminfo")


def test_full_disk(server: Server) -> None:
    """An upload that does not fit says so, changes nothing, and leaves no trace."""
    sandbox = Sandbox.create(timeout=120, **server.sdk)
    try:
        sandbox.files.write("old", "old contents")
        assert shell(sandbox, FILL_DISK, timeout=120).status == 0
        for name in ("old", "new"):
            with pytest.raises(NotEnoughSpaceException):
                sandbox.files.write(name, io.BytesIO(os.urandom(64 << 20)))
        assert sandbox.files.read("old") == "old contents"
        assert not sandbox.files.exists("new")
        assert int(shell(sandbox, "df --output=avail -B1M / | tail -1").text) >= 15
    finally:
        sandbox.kill()


def test_simultaneous_writes(sandbox: Sandbox) -> None:
    """Of many writers of one file one wins whole; readers see one of the versions, never a mixture or a gap."""
    versions = [bytes([65 + number]) * 400_000 for number in range(8)]
    sandbox.files.write("race", versions[0])
    with ThreadPoolExecutor(16) as pool:
        writes = [pool.submit(sandbox.files.write, "race", version) for version in versions * 4]
        reads = [pool.submit(sandbox.files.read, "race", format="bytes") for _ in range(32)]
        assert all(bytes(read.result()) in versions for read in reads)
        assert all(write.result().name == "race" for write in writes)
    assert [one.name for one in sandbox.files.list("/home/user") if one.name.startswith((".cloister", "#"))] == []


async def test_async_sdk(async_sandbox: AsyncSandbox) -> None:
    """The asynchronous SDK's methods work alike."""
    files = async_sandbox.files

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"chunk" * 1000

    assert (await files.write("async/a", "text")).path == "/home/user/async/a"
    await files.write("async/b", chunks(), gzip=True)
    assert await files.read("async/a") == "text"
    assert await files.read("async/b", format="bytes") == b"chunk" * 10_000
    async with await files.read("async/b", format="stream") as stream:
        assert b"".join([chunk async for chunk in stream]) == b"chunk" * 10_000
    await files.write_files([{"path": "async/c", "data": "1"}, {"path": "async/d", "data": b"2"}])
    assert [one.name for one in await files.list("async")] == ["a", "b", "c", "d"]
    assert (await files.rename("async/c", "async/e")).name == "e"
    assert await files.make_dir("async/f")
    assert not await files.make_dir("async/f")
    assert (await files.get_info("async/f")).type == FileType.DIR
    await files.remove("async/f")
    assert not await files.exists("async/f")
    with pytest.raises(FileNotFoundException):
        await files.read("async/none")


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript_sdk(server: Server) -> None:
    """The JavaScript SDK reads every format, writes every kind of data, watches and renames."""
    environ = {**os.environ, **server.environ}
    done = subprocess.run(["node", "files.mjs"], cwd=JS, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "text": "hello é",
        "bytes": 8,
        "blob": 8,
        "stream": 8,
        "empty": "",
        "many": ["1", "2"],
        "quoted": "3",
        "gzip": 100000,
        "metadata": {"k": "v"},
        "listed": ["a.txt", "empty", "gz", "m1", "m2", "meta", 'q"t'],
        "info": ["file", 8, "-rw-r--r--"],
        "made": [True, False],
        "renamed": "/home/user/js/b.txt",
        "exists": [False, True],
        "missing": "FileNotFoundError",
        "directory": "InvalidArgumentError",
        "events": ["new.txt create", "new.txt chmod", "new.txt write"],
        "signed": "hello é",
        "uploaded": "by url",
        "expired": 401,
    }
