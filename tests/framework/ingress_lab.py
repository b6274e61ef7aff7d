"""The ingress alone: its sandboxes are entries of a table, and all their ports are one server of the test's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cloister.api.metrics.counts import TrafficCounts
from cloister.errors import CloisterError, ConflictError
from cloister.protocol.dialled import Dialled, on_loopback
from cloister.proxy.app import Ingress
from cloister.proxy.routes import Asleep, Gone, Route

__all__ = ["ACCESS", "ID", "PORT", "TRAFFIC", "IngressLab", "ingress_lab", "to_port"]

ID = "a" * 20
PORT = 8080
ACCESS, TRAFFIC = "x" * 40, "y" * 40


class _Inside(socket.socket):
    """A socket whose every connection goes to one server."""

    port = 0

    def connect(self, address: Any) -> None:
        """See the class."""
        super().connect((address[0], self.port))


class IngressLab:
    """Routes, dialer and waker at once; tests set what they say. ``client`` sends requests to the ingress."""

    def __init__(self) -> None:
        self.routes: dict[str, Route | Asleep | Gone] = {}
        self.port = 0
        self.wakes = 0
        self.may_wake = asyncio.Event()
        self.may_wake.set()
        self.wake_fault: CloisterError | None = None
        self.pause_at_dial: Callable[[], None] | None = None
        """Called at the next connection, which fails as one to a paused sandbox."""
        self.failures = 0
        self.meter = TrafficCounts()
        self.ingress = Ingress(self, self, domain="x.test", stall_s=5.0, meter=self.meter)
        self.ingress.set_waker(self)
        self.client: TestClient[Any, Any]

    def run(self, *, access: str | None = None, traffic: str | None = None) -> Route:
        """Let the sandbox run."""
        route = self.routes[ID] = Route(ID, access, traffic)
        return route

    def pause(self, *, wakes: bool = True) -> None:
        """Pause it, as the control plane says it."""
        route = self.routes[ID]
        assert isinstance(route, Route)
        self.routes[ID] = Asleep(route, wakes, "is paused: resume it")
        self.ingress.end(ID)

    async def catch_up(self) -> None:
        """See Routes."""

    def find(self, sandbox_id: str) -> Route | Asleep | Gone | None:
        """See Routes."""
        return self.routes.get(sandbox_id)

    def access_tokens(self) -> Iterator[tuple[str, str]]:
        """See Routes."""
        for sandbox_id, found in self.routes.items():
            route = found.route if isinstance(found, Asleep) else found
            if isinstance(route, Route) and route.access_token:
                yield sandbox_id, route.access_token

    async def dial(self, sandbox_id: str) -> Dialled:
        """See Dialer."""
        if self.pause_at_dial is not None:
            pause, self.pause_at_dial = self.pause_at_dial, None
            asyncio.get_running_loop().call_later(0.01, pause)
            raise ConflictError(f"sandbox {sandbox_id} is paused")
        sock = _Inside(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.port = self.port
        return on_loopback(sock)

    async def wake(self, sandbox_id: str) -> None:
        """See Waker."""
        self.wakes += 1
        await self.may_wake.wait()
        if self.wake_fault is not None:
            raise self.wake_fault
        asleep = self.routes[sandbox_id]
        assert isinstance(asleep, Asleep)
        self.routes[sandbox_id] = asleep.route

    async def note_failure(self, _request: web.BaseRequest) -> None:
        """Count wrong credentials."""
        self.failures += 1


@asynccontextmanager
async def ingress_lab(handler: Callable[[web.Request], Any]) -> AsyncIterator[IngressLab]:
    """An ingress, before sandboxes whose ports are all served by ``handler``."""
    lab = IngressLab()
    lab.ingress.note_failure = lab.note_failure
    inside = web.Application(client_max_size=1 << 30)
    inside.router.add_route("*", "/{tail:.*}", handler)
    async with TestServer(inside) as server:
        lab.port = server.port or 0
        app = web.Application(middlewares=[lab.ingress.middleware()])
        async with TestServer(app) as front:
            lab.client = TestClient(front)
            try:
                yield lab
            finally:
                await lab.client.close()
                await lab.ingress.close()


def to_port(port: int = PORT, given: dict[str, str] | None = None, **more: str) -> dict[str, str]:
    """The headers that address a port of the sandbox, with tokens by the names ``access`` and ``traffic``."""
    tokens = {**(given or {}), **more}
    names = {"access": "X-Access-Token", "traffic": "E2b-Traffic-Access-Token"}
    return {"E2b-Sandbox-Id": ID, "E2b-Sandbox-Port": str(port), **{names[name]: value for name, value in tokens.items()}}
