"""The api process's work over a fake node, in a thread of its own, as a fixture: for SDKs that block, and for SDKs that do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pytest

from cloister.config.client_env import read_client_env
from cloister.config.settings import Settings
from cloister.control.keys import Keys
from cloister.egresswire.values import VALUES_SOCKET
from cloister.model.team import KeyScope
from cloister.processes.api_server import ApiServer, ValuesListener
from cloister.processes.launcher import listen_for_values
from cloister.store.sqlite import SqliteStore
from framework.fake_node import FakeNode
from framework.server import MAX_FAILED_KEYS

__all__ = ["ControlPlane", "control_plane", "running_control_plane"]

_T = TypeVar("_T")
_TIMEOUT_S = 60.0


@dataclass
class ControlPlane:
    """A running control plane. Coroutines go to its loop by :meth:`run`."""

    url: str
    api_key: str
    settings: Settings
    node: FakeNode
    loop: asyncio.AbstractEventLoop
    server: ApiServer
    listener: socket.socket
    values: ValuesListener

    def run(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Run ``work()`` on the control plane's loop and wait for it."""

        async def call() -> _T:
            return await work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(_TIMEOUT_S)

    @property
    def sdk(self) -> dict[str, str]:
        """Keyword arguments that point the Python SDKs at it."""
        return {"api_key": self.api_key, "api_url": self.url, "sandbox_url": self.url}

    @property
    def environ(self) -> dict[str, str]:
        """An environment that points any SDK at it."""
        return {**os.environ, "E2B_API_KEY": self.api_key, "E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url}

    def with_keys(self, work: Callable[[Keys], Awaitable[_T]]) -> _T:
        """Do ``work`` on the keys through another connection to the store, as ``cloister key`` does."""

        async def done() -> _T:
            store = await SqliteStore.open(self.settings.data_dir / "api" / "cloister.db")
            try:
                return await work(Keys(store))
            finally:
                await store.close()

        return self.run(done)

    def metrics_key(self) -> str:
        """A new key for ``GET /metrics``."""
        _, secret = self.with_keys(lambda keys: keys.create_for_operator(KeyScope.METRICS, "prometheus"))
        return secret

    @cached_property
    def admin_key(self) -> str:
        """A key of the operator's."""
        _, secret = self.with_keys(lambda keys: keys.create_for_operator(KeyScope.ADMIN, "operator"))
        return secret

    def listen_tls(self, context: ssl.SSLContext) -> str:
        """Serve by TLS on a free port too; its address in the form of :attr:`url`."""
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.run(lambda: self.server.runner.listen(listener, context))
        return address

    def restart_api(self) -> None:
        """Stop the api process's work and start it anew on the same data, as after a crash of it."""

        async def restart() -> None:
            await self.server.close()
            listener = socket.create_server(("127.0.0.1", int(self.url.rpartition(":")[2])))
            self.server = ApiServer(self.settings, listener, self.node.path, values=self.values)
            await self.server.start()

        self.run(restart)


@contextlib.contextmanager
def running_control_plane(directory: Path, **settings: object) -> Iterator[ControlPlane]:
    """A control plane over a fake node, with its data in ``directory``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="control plane")
    thread.start()
    (directory / "api").mkdir(parents=True)
    values = Settings(data_dir=directory, node_wait_s=2.0, **{"max_failed_keys": MAX_FAILED_KEYS, **settings})  # type: ignore[arg-type]  # fields by name
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    header_values = ValuesListener(listen_for_values(directory / VALUES_SOCKET, os.getuid()), os.getuid())

    async def start() -> tuple[FakeNode, ApiServer]:
        node = FakeNode(directory / "node.sock")
        await node.start()
        server = ApiServer(values, listener, node.path, values=header_values)
        await server.start()
        return node, server

    async def stop(plane: ControlPlane) -> None:
        await plane.server.close()
        await plane.node.close()

    try:
        node, server = asyncio.run_coroutine_threadsafe(start(), loop).result(_TIMEOUT_S)
        plane = ControlPlane(url, read_client_env(directory).api_key, values, node, loop, server, listener, header_values)
        yield plane
        asyncio.run_coroutine_threadsafe(stop(plane), loop).result(_TIMEOUT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        header_values.listener.close()


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of the test's own."""
    with running_control_plane(tmp_path) as plane:
        yield plane
