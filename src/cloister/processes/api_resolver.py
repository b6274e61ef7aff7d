"""The sandboxes' resolver in the api process: the relay on the node's sockets, and what the node hears of look-ups.

Owns the relay and the task that tells. A look-up that cannot be told is lost: a record of a connection is without its name then.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from cloister.cluster.base import NodeClient
from cloister.errors import CloisterError
from cloister.model.connection import LookUp
from cloister.network.dns_relay import DnsRelay
from cloister.network.looked_up import LookupBuffer
from cloister.nodewire.requests import MAX_LOOK_UPS, NoteLookUps

__all__ = ["Resolving"]

_log = structlog.get_logger("cloister.api")
_TOLD_AFTER_S = 0.2


class Resolving:
    """Serves questions from :meth:`begin` on. Event loop only."""

    def __init__(self) -> None:
        self._relay: DnsRelay | None = None
        self._telling: asyncio.Task[None] | None = None

    async def begin(self, node: NodeClient) -> None:
        """Serve on the sockets of ``node``, in place of former ones. A failure is logged."""
        await self.stop()
        found = _Waiting()
        try:
            sockets = await node.dns_sockets()
            relay = DnsRelay(sockets.udp, sockets.tcp, sockets.upstreams, look_ups=found)
            await relay.start()
        except (CloisterError, OSError):
            _log.exception("resolver.not_started")
            return
        self._relay = relay
        self._telling = asyncio.create_task(_tell(node, found))
        _log.info("resolver.started", upstreams=list(sockets.upstreams))

    async def stop(self) -> None:
        """Close the sockets. Idempotent."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        if self._relay is not None:
            await self._relay.stop()
        self._relay = self._telling = None


class _Waiting(LookupBuffer):
    """Look-ups, and whether there are some."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()

    def add(self, look_up: LookUp) -> None:
        super().add(look_up)
        self.came.set()


async def _tell(node: NodeClient, waiting: _Waiting) -> None:
    while True:
        await waiting.came.wait()
        await asyncio.sleep(_TOLD_AFTER_S)
        waiting.came.clear()
        found = waiting.take()
        for start in range(0, len(found), MAX_LOOK_UPS):
            with contextlib.suppress(CloisterError):
                await node.note_look_ups(NoteLookUps(found[start : start + MAX_LOOK_UPS]))
