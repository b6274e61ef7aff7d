"""``sandbox.git`` of the official SDKs, sync, async and JavaScript, against a real git server by HTTPS with passwords."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from e2b import (
    AsyncSandbox,
    CommandExitException,
    GitAuthException,
    GitUpstreamException,
    InvalidArgumentException,
    Sandbox,
)

from framework.git_backend import PASSWORD, READER, USER
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

SERVER = "https://git.example.com"
JS = Path(__file__).parent / "js"
AUTHOR = {"author_name": "Ada Lovelace", "author_email": "ada@example.com"}


@pytest.fixture(scope="module")
def sandbox(online_server: Server) -> Iterator[Sandbox]:
    """One sandbox, which reaches the git server, for the tests of this file."""
    with Sandbox.create("base", timeout=900, **online_server.sdk) as made:
        yield made


class Both:
    """A synchronous or asynchronous object, whose methods are awaited in both cases."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two Python SDKs."""
    return str(request.param)


async def git_of(sandbox: Sandbox, kind: str, server: Server) -> Any:
    """The git helpers of a sandbox."""
    return Both(sandbox.git if kind == "sync" else (await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk)).git)


@pytest_asyncio.fixture
async def git(kind: str, sandbox: Sandbox, online_server: Server) -> Any:
    """The git helpers of the sandbox, of the synchronous and of the asynchronous SDK."""
    return await git_of(sandbox, kind, online_server)


def fresh() -> str:
    """The address of a private repository that no other test uses."""
    return f"{SERVER}/private/r{uuid.uuid4().hex[:12]}.git"


async def new_repository(git: Any, sandbox: Sandbox, remote: str | None = None) -> str:
    """A repository with one commit on ``main`` and, if wanted, a remote; its path."""
    path = f"/home/user/{uuid.uuid4().hex[:12]}"
    await git.init(path, initial_branch="main")
    sandbox.commands.run(f"echo one > {path}/a.txt")
    await git.add(path)
    await git.commit(path, "First: it's \"quoted\"\nand long", **AUTHOR)
    if remote:
        await git.remote_add(path, "origin", remote)
    return path


def told(sandbox: Sandbox, command: str) -> str:
    """Output of a command, without the last line end."""
    return sandbox.commands.run(command).stdout.rstrip("\n")


async def test_init_status_commit(git: Any, sandbox: Sandbox) -> None:
    """A repository is made, its status follows the work, and a commit has the author and the message that were given."""
    path = await new_repository(git, sandbox)
    assert told(sandbox, f"git -C {path} log -1 --format='%an <%ae> %B'") == "Ada Lovelace <ada@example.com> First: it's \"quoted\"\nand long"
    assert (await git.status(path)).is_clean
    sandbox.commands.run(f"cd {path} && echo two >> a.txt && echo new > b.txt && git mv a.txt c.txt ")
    status = await git.status(path)
    assert (status.current_branch, status.detached, status.has_staged, status.has_untracked) == ("main", False, True, True)
    assert {(one.name, one.status, one.renamed_from) for one in status.file_status} == {("c.txt", "renamed", "a.txt"), ("b.txt", "untracked", None)}
    await git.add(path, files=["b.txt"])
    assert {one.status for one in (await git.status(path)).file_status if one.name == "b.txt"} == {"added"}
    await git.commit(path, "empty", allow_empty=True, **AUTHOR)
    bare = f"{path}-bare"
    await git.init(bare, bare=True)
    assert told(sandbox, f"git -C {bare} rev-parse --is-bare-repository") == "true"


async def test_branches(git: Any, sandbox: Sandbox) -> None:
    """Branches are made, listed, changed to and deleted, and one that is not there is an error that git words."""
    path = await new_repository(git, sandbox)
    await git.create_branch(path, "feature/x")
    found = await git.branches(path)
    assert (sorted(found.branches), found.current_branch) == (["feature/x", "main"], "feature/x")
    await git.commit(path, "on the branch", allow_empty=True, **AUTHOR)
    await git.checkout_branch(path, "main")
    with pytest.raises(CommandExitException, match="not fully merged"):
        await git.delete_branch(path, "feature/x")
    await git.delete_branch(path, "feature/x", force=True)
    assert (await git.branches(path)).branches == ["main"]
    with pytest.raises(CommandExitException, match="did not match"):
        await git.checkout_branch(path, "nope")


async def test_reset_and_restore(git: Any, sandbox: Sandbox) -> None:
    """Changes are unstaged, thrown away, and a commit is taken back."""
    path = await new_repository(git, sandbox)
    sandbox.commands.run(f"echo changed > {path}/a.txt")
    await git.add(path)
    await git.restore(path, paths=["a.txt"], staged=True, worktree=False)
    assert not (await git.status(path)).has_staged
    await git.restore(path, paths=["a.txt"])
    assert told(sandbox, f"cat {path}/a.txt") == "one"
    sandbox.commands.run(f"echo changed > {path}/a.txt")
    await git.add(path)
    await git.commit(path, "second", **AUTHOR)
    await git.reset(path, mode="hard", target="HEAD~1")
    assert told(sandbox, f"cat {path}/a.txt; git -C {path} rev-list --count HEAD") == "one\n1"
    with pytest.raises(InvalidArgumentException):
        await git.restore(path, paths=[])


async def test_config(git: Any, sandbox: Sandbox) -> None:
    """Settings are kept in the scope that is named, for the user that is named, and one that is not set is None."""
    path = await new_repository(git, sandbox)
    await git.configure_user("Local", "local@example.com", scope="local", path=path)
    await git.configure_user("Röot", "root@example.com", user="root")
    assert await git.get_config("user.name", scope="local", path=path) == "Local"
    assert await git.get_config("user.name", user="root") == "Röot"
    assert await git.get_config("user.name") is None
    await git.set_config("core.editor", "it's", scope="system", user="root")
    assert await git.get_config("core.editor", scope="system") == "it's"
    with pytest.raises(InvalidArgumentException):
        await git.set_config("a.b", "c", scope="nowhere")
    with pytest.raises(CommandExitException, match="key does not contain"):
        await git.set_config("nodot", "c")


async def test_commit_without_an_identity(git: Any, sandbox: Sandbox) -> None:
    """Git's own message says that the author is missing."""
    path = await new_repository(git, sandbox)
    with pytest.raises(CommandExitException, match=r"empty ident name|tell me who you are"):
        await git.commit(path, "whose?", allow_empty=True)


async def test_remotes(git: Any, sandbox: Sandbox) -> None:
    """A remote is added, read, and replaced only when that is asked for."""
    path = await new_repository(git, sandbox, fresh())
    with pytest.raises(CommandExitException, match="already exists"):
        await git.remote_add(path, "origin", f"{SERVER}/public/x.git")
    await git.remote_add(path, "origin", f"{SERVER}/public/x.git", overwrite=True)
    assert await git.remote_get(path, "origin") == f"{SERVER}/public/x.git"
    assert await git.remote_get(path, "other") is None


async def test_push_clone_pull(git: Any, sandbox: Sandbox) -> None:
    """Work goes to the server and comes to a clone, by a password that is left nowhere."""
    remote = fresh()
    path = await new_repository(git, sandbox, remote)
    with pytest.raises(GitUpstreamException):
        await git.pull(path)
    await git.push(path, remote="origin", branch="main", username=USER, password=PASSWORD)
    assert (await git.status(path)).upstream == "origin/main"
    copy = f"{path}-copy"
    await git.clone(remote, copy, branch="main", depth=1, username=USER, password=PASSWORD)
    assert told(sandbox, f"cat {copy}/a.txt") == "one"
    assert told(sandbox, f"grep -r {PASSWORD} {path} {copy} ~/.git-credentials || echo nowhere") == "nowhere"
    assert await git.remote_get(copy, "origin") == remote
    sandbox.commands.run(f"head -c 3000000 /dev/urandom > {path}/large")
    await git.add(path)
    await git.commit(path, "large", **AUTHOR)
    assert (await git.status(path)).ahead == 1
    await git.push(path, username=USER, password=PASSWORD)
    await git.pull(copy, username=READER, password=PASSWORD)
    assert told(sandbox, f"cmp {path}/large {copy}/large && echo same") == "same"


async def test_clone_that_keeps_the_password(git: Any, sandbox: Sandbox) -> None:
    """Only when it is asked for does the clone know the password."""
    remote, copy = fresh(), f"/home/user/{uuid.uuid4().hex[:12]}"
    await git.clone(remote, copy, username=USER, password=PASSWORD, dangerously_store_credentials=True)
    assert f"{USER}:{PASSWORD}@" in await git.remote_get(copy, "origin")
    await git.commit(copy, "first", allow_empty=True, **AUTHOR)
    await git.push(copy)


async def test_who_may_not(git: Any, sandbox: Sandbox) -> None:
    """Without a password, with a wrong one, and without the right, git fails at once instead of asking a terminal."""
    remote = fresh()
    path = await new_repository(git, sandbox, remote)
    for words in ({}, {"username": USER}, {"username": USER, "password": "wrong"}):
        with pytest.raises(GitAuthException, match="requires"):
            await git.clone(remote, f"{path}-copy", **words)
    with pytest.raises(GitAuthException, match="push requires credentials"):
        await git.push(path, remote="origin", branch="main")
    with pytest.raises(CommandExitException, match="403"):
        await git.push(path, remote="origin", branch="main", username=READER, password=PASSWORD)
    with pytest.raises(GitAuthException, match="pull requires credentials"):
        await git.pull(path, remote="origin", branch="main")
    assert await git.remote_get(path, "origin") == remote
    for method in (git.clone, git.push, git.pull):
        with pytest.raises(InvalidArgumentException, match="Username is required"):
            await method(path, password="x")


async def test_push_without_an_upstream(git: Any, sandbox: Sandbox) -> None:
    """A branch that no branch of the server belongs to is named as the reason."""
    path = await new_repository(git, sandbox, fresh())
    with pytest.raises(GitUpstreamException, match="no upstream branch"):
        await git.push(path, set_upstream=False)


async def test_clone_public_and_missing(git: Any, sandbox: Sandbox) -> None:
    """A public repository needs no password; a missing one is reported as not found."""
    copy = f"/home/user/{uuid.uuid4().hex[:12]}"
    await git.clone(f"{SERVER}/public/open.git", copy)
    assert await git.remote_get(copy, "origin") == f"{SERVER}/public/open.git"
    with pytest.raises(CommandExitException, match="not found"):
        await git.clone(f"{SERVER}/public/missing.git", f"{copy}-2")


async def test_dangerously_authenticate(kind: str, online_server: Server) -> None:
    """Afterwards git needs no password for that host, and knows none for another."""
    with Sandbox.create("base", timeout=120, **online_server.sdk) as other:
        git = await git_of(other, kind, online_server)
        with pytest.raises(GitAuthException):
            await git.clone(fresh(), "/home/user/before")
        await git.dangerously_authenticate(USER, PASSWORD, host="git.example.com")
        await git.clone(fresh(), "/home/user/after")
        assert other.commands.run("cat ~/.git-credentials").stdout == f"https://{USER}:{PASSWORD}@git.example.com\n"
        with pytest.raises(InvalidArgumentException):
            await git.dangerously_authenticate(USER, "")


async def test_repository_of_another_user(git: Any, sandbox: Sandbox) -> None:
    """Git does not trust a directory that another user owns, and works in it when told to by its own setting."""
    path = await new_repository(git, sandbox)
    with pytest.raises(CommandExitException, match="dubious ownership"):
        await git.status(path, user="root")
    trusted = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": path}
    assert (await git.status(path, user="root", envs=trusted)).is_clean


def test_javascript(online_server: Server) -> None:
    """Every git helper of the JavaScript SDK, and its errors."""
    url = fresh()
    environ = {"PATH": os.environ["PATH"], **online_server.environ, "GIT_URL": url, "GIT_USER": USER, "GIT_PASSWORD": PASSWORD}
    done = subprocess.run(["node", "git.mjs"], cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "status": {"branch": "main", "untracked": True},
        "branches": {"branches": ["main", "side"], "currentBranch": "side"},
        "undeleted": "CommandExitError",
        "afterReset": "one\n",
        "config": ["Ada", None],
        "remote": [url, None],
        "noUpstream": "GitUpstreamError",
        "noPassword": "GitAuthError",
        "noUser": "InvalidArgumentError",
        "cloned": "one\n",
        "pulled": "two\n",
        "ahead": 0,
        "authenticated": "two\n",
    }
