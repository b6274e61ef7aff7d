"""Watches of the API: create, poll, stream, remove. The event loop's side of ``watchtree.py``.

A polled watch lives until it is removed or was not polled for an hour in which the sandbox ran, a streamed one as long as its stream. If a
full queue or buffer lost events, the client gets an error ``data_loss``: a poll reports it once and goes on, a stream ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets

from cloister.agent.accounts import Account
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.users import ROOT, Workers
from cloister.agent.filesystem.watchtree import Watch, WatchTree
from cloister.errors import InvalidRequestError, LimitError, NotFoundError
from cloister.protocol.connect import Code, ConnectError
from cloister.protocol.filesystem import CreateWatcherRequest, FilesystemEvent

__all__ = ["Watch", "Watches", "is_network_mount"]

_MAX_WATCHES = 256
_FORGET_S = 3600.0
_BATCH = 500
_NETWORK_TYPES = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "glusterfs", "afs", "lustre")


class Watches:
    """All watches of the sandbox."""

    def __init__(self) -> None:
        self._thread = Workers(threads=1)
        self._tree: WatchTree | None = None
        self._open: dict[str, Watch] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._asked_at: dict[str, float] = {}
        self._draining: asyncio.Task[None] | None = None

    async def open(self, user: Account, path: str, request: CreateWatcherRequest, *, is_polled: bool) -> Watch:
        """Watch a directory as the user.

        Raises: InvalidRequestError (no directory, a network mount), NotFoundError, PermissionDeniedError, LimitError.
        """
        await self._forget_unasked()
        if len(self._open) >= _MAX_WATCHES:
            raise LimitError(f"there are {_MAX_WATCHES} watches already")
        watch = Watch(secrets.token_hex(8), user, path, is_recursive=request.recursive, has_entries=request.include_entry)
        self._open[watch.watcher_id] = watch
        self._news[watch.watcher_id] = asyncio.Event()
        if is_polled:
            self._asked_at[watch.watcher_id] = asyncio.get_running_loop().time()
        try:
            await self._thread.run(user, self._start, watch, allow_network=request.allow_network_mounts)
        except BaseException:
            await asyncio.shield(self.close_watch(watch))
            raise
        self._listen()
        return watch

    async def close_watch(self, watch: Watch) -> None:
        """End a watch."""
        self._open.pop(watch.watcher_id, None)
        self._news.pop(watch.watcher_id, None)
        self._asked_at.pop(watch.watcher_id, None)
        if self._tree is not None:
            await self._thread.run(ROOT, self._tree.close, watch)

    async def remove(self, watcher_id: str) -> None:
        """End a polled watch. Raises: NotFoundError."""
        await self.close_watch(self._find(watcher_id))

    async def poll(self, watcher_id: str) -> tuple[FilesystemEvent, ...]:
        """The events since the last poll.

        Raises: NotFoundError; ConnectError (data_loss).
        """
        watch = self._find(watcher_id)
        self._asked_at[watcher_id] = asyncio.get_running_loop().time()
        await self._drain()
        _report_loss(watch)
        return tuple(watch.events.popleft() for _ in range(len(watch.events)))  # the other thread may add events meanwhile

    async def next_events(self, watch: Watch) -> list[FilesystemEvent]:
        """The next events, at least one.

        Raises: ConnectError (data_loss), after all events before the loss.
        """
        news = self._news[watch.watcher_id]
        while not watch.events:
            news.clear()
            _report_loss(watch)
            await news.wait()
        return [watch.events.popleft() for _ in range(min(_BATCH, len(watch.events)))]

    def _start(self, watch: Watch, *, allow_network: bool) -> None:
        with faults(watch.root):
            status = os.stat(watch.root)
        if not os.path.isdir(watch.root):
            raise InvalidRequestError(f"path '{watch.root}' is not a directory")
        if not allow_network and is_network_mount(status.st_dev):
            raise InvalidRequestError(f"cannot watch path on network filesystem: '{watch.root}'; allow network mounts to try it")
        if self._tree is None:
            with faults(watch.root):
                self._tree = WatchTree()
        self._tree.open(watch)

    def _find(self, watcher_id: str) -> Watch:
        watch = self._open.get(watcher_id) if watcher_id in self._asked_at else None
        if watch is None:
            raise NotFoundError(f"watcher with id {watcher_id} not found")
        return watch

    def _listen(self) -> None:
        if self._tree is not None and self._draining is None:
            asyncio.get_running_loop().add_reader(self._tree.queue.fd, self._wake)

    def _wake(self) -> None:
        """There are events: stop listening until they are read."""
        assert self._tree is not None
        asyncio.get_running_loop().remove_reader(self._tree.queue.fd)
        self._draining = asyncio.ensure_future(self._drain_and_listen())

    async def _drain_and_listen(self) -> None:
        try:
            await self._drain()
        finally:
            self._draining = None
            if self._open:
                self._listen()

    async def _drain(self) -> None:
        if self._tree is None:
            return
        for watch in await self._thread.run(ROOT, self._tree.drain):
            with contextlib.suppress(KeyError):
                self._news[watch.watcher_id].set()

    async def _forget_unasked(self) -> None:
        now = asyncio.get_running_loop().time()
        for watcher_id in [one for one, asked_at in self._asked_at.items() if now - asked_at > _FORGET_S]:
            await self.close_watch(self._open[watcher_id])


def _report_loss(watch: Watch) -> None:
    if watch.has_lost:
        watch.has_lost = False
        message = f"events below '{watch.root}' were lost: more happened than could be kept; list the directory again"
        raise ConnectError(Code.DATA_LOSS, message)


def is_network_mount(device: int, mounts: str | None = None) -> bool:
    """Whether a device number belongs to a network file system (or to FUSE, which may be one).

    The file system at the root is the sandbox's disk, whatever the kernel calls it: gVisor's calls it 9p.
    """
    if mounts is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = file.read()
    found, wanted = False, f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split()
        if words[2:3] == [wanted]:
            if words[4:5] == ["/"]:
                return False
            found = found or rest.startswith(_NETWORK_TYPES)
    return found
