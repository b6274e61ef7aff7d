"""The registry and the node in the forms that the ingress needs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cloister.cluster.base import NodeClient
from cloister.control.registry import Registry
from cloister.control.sandboxes import name_end
from cloister.model.lifecycle import TimeoutAction
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.secret import reveal
from cloister.nodewire.requests import SandboxRef
from cloister.protocol.dialled import Dialled
from cloister.proxy.routes import Asleep, Gone, Route

__all__ = ["NodeDialer", "RegistryRoutes", "wakes_by_traffic"]

_ASLEEP = frozenset({SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING})
_SLEEP = "is {state}: resume it by Sandbox.connect() or POST /sandboxes/{sandbox_id}/connect"
_SLEEP_WITHOUT_WAKE = f"{_SLEEP}, or choose auto-resume at its creation"
_SLEEP_WITH_FILES = f"{_SLEEP}; traffic does not wake it, because only its files were kept"


class RegistryRoutes:
    """The registry in the form that the data plane needs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, sandbox_id: str) -> Route | Asleep | Gone | None:
        """See :class:`~cloister.proxy.routes.Routes`."""
        row = self._registry.live(sandbox_id)
        if row is None:
            ended = self._registry.ended(sandbox_id)
            return None if ended is None else Gone(name_end(ended))
        route = Route(sandbox_id, reveal(row.access_token), reveal(row.traffic_token), row.network.host_mask, row.network.https_ports)
        state = row.state_at(time.time())
        if state is SandboxState.RUNNING:
            return route
        if state not in _ASLEEP:
            return None
        wakes = wakes_by_traffic(row)
        why = _SLEEP if wakes else _SLEEP_WITHOUT_WAKE if row.lifecycle.wake_s is None else _SLEEP_WITH_FILES
        return Asleep(route, wakes, why.format(state=state, sandbox_id=sandbox_id))

    async def catch_up(self) -> None:
        """See :class:`~cloister.proxy.routes.Routes`."""
        await self._registry.catch_up()

    def access_tokens(self) -> Iterator[tuple[str, str]]:
        """See :class:`~cloister.proxy.routes.Routes`."""
        for row in self._registry.all_live():
            if (row.state is SandboxState.RUNNING or row.state in _ASLEEP) and row.access_token:
                yield row.sandbox_id, row.access_token.revealed


def wakes_by_traffic(row: Sandbox) -> bool:
    """Whether traffic wakes it: its client chose so, and its memory is kept."""
    keeps_memory = row.lifecycle.on_timeout is not TimeoutAction.PAUSE_FILES if row.pause is None else row.pause.kind.keeps_memory
    return row.lifecycle.wake_s is not None and keeps_memory


class NodeDialer:
    """Reaches into sandboxes' networks through the node."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node

    async def dial(self, sandbox_id: str) -> Dialled:
        """See :class:`~cloister.proxy.routes.Dialer`."""
        return await self._node.dial(SandboxRef(sandbox_id))
