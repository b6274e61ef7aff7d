"""The methods of ``filesystem.Filesystem``: requests become work in threads that act as the user. It makes no rules about files."""

from __future__ import annotations

import asyncio

from cloister.agent.accounts import Account
from cloister.agent.filesystem.operations import list_dir, make_dir, move, remove, stat_entry
from cloister.agent.filesystem.paths import resolve_path
from cloister.agent.filesystem.users import Workers
from cloister.agent.filesystem.watch import Watch, Watches
from cloister.agent.rpc import Call, RpcRouter, Stream
from cloister.agent.state import AgentState
from cloister.protocol.filesystem import (
    SERVICE,
    CreateWatcherRequest,
    CreateWatcherResponse,
    Empty,
    EntryResponse,
    GetWatcherEventsResponse,
    ListDirRequest,
    ListDirResponse,
    MoveRequest,
    PathRequest,
    WatchDirResponse,
    WatcherRequest,
)

__all__ = ["FilesystemService"]

_DONE = Empty()


class FilesystemService:
    """The service, for one sandbox."""

    def __init__(self, state: AgentState, workers: Workers, watches: Watches) -> None:
        self._state = state
        self._workers = workers
        self._watches = watches

    def register(self, rpc: RpcRouter) -> None:
        """Add the methods to ``rpc``."""
        rpc.unary(f"{SERVICE}Stat", PathRequest, self._stat)
        rpc.unary(f"{SERVICE}ListDir", ListDirRequest, self._list_dir)
        rpc.unary(f"{SERVICE}MakeDir", PathRequest, self._make_dir)
        rpc.unary(f"{SERVICE}Move", MoveRequest, self._move)
        rpc.unary(f"{SERVICE}Remove", PathRequest, self._remove)
        rpc.unary(f"{SERVICE}CreateWatcher", CreateWatcherRequest, self._create_watcher)
        rpc.unary(f"{SERVICE}GetWatcherEvents", WatcherRequest, self._get_events)
        rpc.unary(f"{SERVICE}RemoveWatcher", WatcherRequest, self._remove_watcher)
        keepalive = WatchDirResponse(keepalive=_DONE)
        rpc.server_stream(f"{SERVICE}WatchDir", CreateWatcherRequest, self._watch_dir, keepalive=keepalive)

    async def _stat(self, request: PathRequest, call: Call) -> EntryResponse:
        user = await self._user(call)
        return EntryResponse(await self._workers.run(user, stat_entry, self._path(request.path, user)))

    async def _list_dir(self, request: ListDirRequest, call: Call) -> ListDirResponse:
        user = await self._user(call)
        return ListDirResponse(await self._workers.run(user, list_dir, self._path(request.path, user), request.depth))

    async def _make_dir(self, request: PathRequest, call: Call) -> EntryResponse:
        user = await self._user(call)
        return EntryResponse(await self._workers.run(user, make_dir, self._path(request.path, user)))

    async def _move(self, request: MoveRequest, call: Call) -> EntryResponse:
        user = await self._user(call)
        source, destination = self._path(request.source, user), self._path(request.destination, user)
        return EntryResponse(await self._workers.run(user, move, source, destination))

    async def _remove(self, request: PathRequest, call: Call) -> Empty:
        user = await self._user(call)
        await self._workers.run(user, remove, self._path(request.path, user))
        return _DONE

    async def _create_watcher(self, request: CreateWatcherRequest, call: Call) -> CreateWatcherResponse:
        return CreateWatcherResponse((await self._open_watch(request, call, is_polled=True)).watcher_id)

    async def _get_events(self, request: WatcherRequest, _call: Call) -> GetWatcherEventsResponse:
        return GetWatcherEventsResponse(await self._watches.poll(request.watcher_id))

    async def _remove_watcher(self, request: WatcherRequest, _call: Call) -> Empty:
        await self._watches.remove(request.watcher_id)
        return _DONE

    async def _watch_dir(self, request: CreateWatcherRequest, call: Call, stream: Stream[WatchDirResponse]) -> None:
        watch = await self._open_watch(request, call, is_polled=False)
        try:
            await stream.send(WatchDirResponse(start=_DONE))
            while True:
                events = await self._watches.next_events(watch)
                await stream.send(*(WatchDirResponse(filesystem=event) for event in events))
        finally:
            await asyncio.shield(self._watches.close_watch(watch))

    async def _open_watch(self, request: CreateWatcherRequest, call: Call, *, is_polled: bool) -> Watch:
        user = await self._user(call)
        return await self._watches.open(user, self._path(request.path, user), request, is_polled=is_polled)

    async def _user(self, call: Call) -> Account:
        return await self._workers.find_user(call.user, self._state.document.user)

    def _path(self, path: str, user: Account) -> str:
        return resolve_path(path, user.home, self._state.document.workdir)
