"""Files of a client that names no user: root's power stands behind the default user, who owns what is made. Both SDKs, and plain HTTP."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import AsyncSandbox, SandboxException
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server

JS = Path(__file__).parent / "js"
PLACES = ["/app", "/opt/app", "/root/app", "/usr/lib/app", "/var/lib/a/b"]
pytestmark = [pytest.mark.root, pytest.mark.templates]

Files = Callable[..., Any]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the module; each test works below a directory of its own."""
    with Sandbox.create(timeout=600, **server.sdk) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
async def files(request: pytest.FixtureRequest, server: Server, sandbox: Sandbox) -> Files:
    """Calls a method of the SDK's files by its name; the answer is awaited, whichever SDK it is."""
    options: dict[str, Any] = dict(server.sdk)
    box: Any = await AsyncSandbox.connect(sandbox.sandbox_id, **options) if request.param == "async" else sandbox

    async def call(name: str, *args: Any, **kwargs: Any) -> Any:
        answer = getattr(box.files, name)(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    return call


def owners(sandbox: Sandbox, *paths: str) -> list[str]:
    """Owner, group and mode of each path, by stat inside."""
    return shell(sandbox, "stat -c '%U:%G %a' " + " ".join(paths)).text.splitlines()


@pytest.mark.parametrize("place", PLACES)
async def test_everywhere(files: Files, sandbox: Sandbox, place: str) -> None:
    """Every method works where only root may, and what is made belongs to the default user, parents included."""
    await files("write", f"{place}/deep/er/main.py", "print(1)")
    assert await files("read", f"{place}/deep/er/main.py") == "print(1)"
    assert [one.name for one in await files("list", place)] == ["deep"]
    assert (await files("get_info", f"{place}/deep/er")).owner == "user"
    assert await files("make_dir", f"{place}/made/below")
    assert (await files("rename", f"{place}/deep/er/main.py", f"{place}/moved/new.py")).owner == "user"
    assert await files("exists", f"{place}/moved/new.py")
    made = [place, f"{place}/deep", f"{place}/deep/er", f"{place}/made", f"{place}/made/below", f"{place}/moved"]
    assert owners(sandbox, *made, f"{place}/moved/new.py") == ["user:user 755"] * len(made) + ["user:user 644"]
    for above in ("/", "/opt", "/root", "/usr/lib", "/var/lib"):
        assert owners(sandbox, above)[0].startswith("root:")
    await files("remove", place)
    assert not await files("exists", place)


async def test_every_kind_of_upload(files: Files, sandbox: Sandbox) -> None:
    """One file by either kind of body, several in one request, compressed, with metadata: all are the default user's."""
    await files("write", "/kinds/octets", b"1", use_octet_stream=True)
    await files("write", "/kinds/form", b"2", use_octet_stream=False)
    await files("write", "/kinds/meta", "3", metadata={"k": "v"}, gzip=True)
    await files("write_files", [{"path": "/kinds/a", "data": "4"}, {"path": "/kinds/sub/b", "data": "5"}])
    assert (await files("get_info", "/kinds/meta")).metadata == {"k": "v"}
    paths = ["octets", "form", "meta", "a", "sub/b"]
    assert owners(sandbox, *(f"/kinds/{path}" for path in paths)) == ["user:user 644"] * 5
    assert [await files("read", f"/kinds/{path}") for path in paths] == ["1", "2", "3", "4", "5"]
    await files("remove", "/kinds")


async def test_what_is_roots_stays_roots(files: Files, sandbox: Sandbox) -> None:
    """A file that is overwritten, moved or listed keeps owner and mode; only the set-id bits of a program go, as always."""
    shell(sandbox, "rm -rf /kept; mkdir -m 700 /kept; cd /kept; echo > a; chmod 600 a; cp /bin/true su; chmod 4755 su; echo > h; ln h h2; chmod 4700 h")
    for name in ("a", "su", "h"):
        await files("write", f"/kept/{name}", "new")
    assert owners(sandbox, "/kept", "/kept/a", "/kept/su", "/kept/h") == ["root:root 700", "root:root 600", "root:root 755", "root:root 700"]
    assert await files("read", "/kept/h2") == "new"
    await files("rename", "/kept/a", "/kept/b")
    await files("rename", "/kept/b", "/dev/shm/b")
    assert owners(sandbox, "/dev/shm/b") == ["root:root 600"]
    assert await files("read", "/dev/shm/b") == "new"
    await files("remove", "/dev/shm/b")
    assert (await files("read", "/etc/shadow")).startswith("root:")


async def test_relative_paths_are_the_default_users(files: Files) -> None:
    """Without a user, relative paths and ``~`` begin at the default user's home."""
    for path in ("at-home", "~/at-home", "./x/../at-home"):
        assert (await files("write", path, "")).path == "/home/user/at-home"
        assert (await files("get_info", path)).owner == "user"


async def test_who_is_named_has_that_users_rights(files: Files, sandbox: Sandbox) -> None:
    """A named user has that user's permissions, also on threads that work for requests without a user before and after."""
    for _ in range(20):  # more often than the agent has threads
        await files("write", "/named/x", "1")
        await files("write", "/root/named", "1", user="root")
    shell(sandbox, "mkdir -p /home/user/closed && chown root: /named /home/user/closed && chmod 700 /home/user/closed")
    refused: list[tuple[str, tuple[Any, ...]]] = [
        ("read", ("/etc/shadow",)),
        ("write", ("/named/y", "")),
        ("write", ("/named/new/y", "")),
        ("write", ("/root/named", "")),
        ("make_dir", ("/named/d",)),
        ("list", ("/root",)),
        ("get_info", ("/root/named",)),
        ("exists", ("/root/named",)),
        ("rename", ("/named/x", "/home/user/x")),
        ("remove", ("/named/x",)),
        ("read", ("/home/user/closed/x",)),
    ]
    for name, args in refused:
        for _ in range(3):
            with pytest.raises(SandboxException, match="permission denied"):
                await files(name, *args, user="user")
    assert owners(sandbox, "/root/named") == ["root:root 644"]


def test_watching(sandbox: Sandbox) -> None:
    """A directory that only root may read can be watched, those that appear in it included, with entries."""
    shell(sandbox, "rm -rf /root/w; mkdir -m 700 /root/w")
    handle = sandbox.files.watch_dir("/root/w", recursive=True)
    shell(sandbox, "mkdir -m 700 /root/w/d && echo > /root/w/d/x")
    events = [f"{event.type.value} {event.name}" for event in handle.get_new_events()]
    assert events[:2] == ["create d", "create d/x"]
    handle.stop()
    with pytest.raises(SandboxException, match="permission denied"):
        sandbox.files.watch_dir("/root/w", user="user")


def ask(sandbox: Sandbox, url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of one request, by the sandbox's token unless the URL is signed."""
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_signed_urls(sandbox: Sandbox) -> None:
    """A signed URL without a user reads and writes everywhere; one that names a user has that user's rights."""
    octets = {"Content_Type": "application/octet-stream"}
    assert ask(sandbox, sandbox.upload_url("/signed/a"), b"by url", **octets)[0] == 200
    assert ask(sandbox, sandbox.download_url("/signed/a")) == (200, b"by url")
    assert owners(sandbox, "/signed", "/signed/a") == ["user:user 755", "user:user 644"]
    assert ask(sandbox, sandbox.download_url("/etc/shadow"))[0] == 200
    assert ask(sandbox, sandbox.download_url("/etc/shadow", "user"))[0] == 403
    assert ask(sandbox, sandbox.upload_url("/signed-b", "user"), b"x", **octets)[0] == 403


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript_sdk(server: Server) -> None:
    """The JavaScript SDK does the same without a user, composing included, and is refused when it names one."""
    environ = {**os.environ, **server.environ}
    done = subprocess.run(["node", "unnamed.mjs"], cwd=JS, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    expected = {
        "read": "1",
        "listed": ["main.py"],
        "made": True,
        "renamed": "user",
        "owners": ["user:user 755"] * 4 + ["user:user 644"] * 2,
        "composed": "abc",
        "gone": False,
        "refused": ["SandboxError permission denied"] * 7,
    }
    assert json.loads(done.stdout) == dict.fromkeys(("/app", "/opt/app", "/root/app"), expected)
