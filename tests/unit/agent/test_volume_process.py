"""The process that serves a volume ends when it is idle, and not while it serves. It removes a tree that others fill, or says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from cloister.agent.volume import main as volume_main
from cloister.agent.volume.app import make_app
from cloister.agent.volume.main import Connections
from cloister.agent.volume.removal import remove_tree
from cloister.agent.volume.tree import Tree


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[Connections, socket.socket]]:
    """The connections of a process, and the supervisor's end."""
    root = os.open(directory, os.O_RDONLY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        runner = web.AppRunner(make_app(Tree(root)))
        await runner.setup()
        assert runner.server is not None
        yield Connections(runner.server, theirs), ours
        await runner.cleanup()
    os.close(root)


def send(ours: socket.socket, connection: socket.socket) -> None:
    """Send a connection as the supervisor does."""
    with connection:
        socket.send_fds(ours, [b"c"], [connection.fileno()], socket.MSG_NOSIGNAL)


async def test_an_idle_process_takes_no_more_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection keeps it, and after that is gone it ends. So the supervisor sends to one that serves, or starts another."""
    monkeypatch.setattr(volume_main, "_IDLE_S", 0.1)
    monkeypatch.setattr(volume_main, "_POLL_S", 0.005)
    async with serving(tmp_path) as (connections, ours):
        client, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        send(ours, server)
        end = asyncio.create_task(connections.wait_end())
        await asyncio.sleep(0.3)  # longer than it may be idle
        assert not end.done()
        assert not connections.is_ending.is_set()
        client.close()
        await asyncio.wait_for(end, 20)
        late, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with late, pytest.raises(BrokenPipeError):
            send(ours, other)


async def test_a_process_ends_with_its_supervisor(tmp_path: Path) -> None:
    """The supervisor's end is closed."""
    async with serving(tmp_path) as (connections, ours):
        ours.close()
        await asyncio.wait_for(connections.wait_end(), 20)


def test_a_wide_and_deep_tree_is_removed(tmp_path: Path) -> None:
    """With links, which are removed and not followed."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    at = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=at)
    os.chdir(tmp_path / "top")
    for number in range(1500):  # deeper than a program's stack, and than it may open files
        if number % 100 == 0:
            Path("file").touch()
            Path("link").symlink_to(kept)
        Path("d").mkdir()
        os.chdir("d")
    os.chdir("/")
    remove_tree(at, "top")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").exists()
    (tmp_path / "link").symlink_to(kept)
    with pytest.raises(NotADirectoryError):
        remove_tree(at, "link")
    os.close(at)
