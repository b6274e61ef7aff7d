"""The agent put together: what needs nothing of a sandbox is made first, which may be in the zygote; ``begin`` binds it to one.

Invariant: before ``begin`` nothing here has an event loop, a descriptor or a thread, or anything that must differ between sandboxes.
"""

from __future__ import annotations

import socket

from aiohttp import web

from cloister.agent.app import PROCESSES, control_app
from cloister.agent.events import EventLog
from cloister.agent.interpreter.app import interpreter_app
from cloister.agent.interpreter.contexts import Contexts
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.metrics import Metrics
from cloister.agent.runner import start_app
from cloister.agent.startup import Startup

__all__ = ["Assembly"]


class Assembly:
    """One agent's applications, ready to be served. The launcher's state is that of all of them."""

    def __init__(self, launcher: KernelLauncher) -> None:
        state = launcher.state
        self.launcher = launcher
        self._state = state
        self.events = EventLog()
        self.contexts = Contexts((), "/", launcher.start, launcher.envs_for, self.events.record, launcher.kernelspecs)
        self._metrics = Metrics(launcher.cgroup, state)
        self._control = control_app(state, self._metrics, self.events)
        self.startup = Startup(state, self._control[PROCESSES], self.events)
        self._interpreter = interpreter_app(state, self.contexts, events=self.events)
        for app in (self._control, self._interpreter):
            app.freeze()
        self._runners: list[web.AppRunner] = []

    def begin(self) -> None:
        """The state's document is the sandbox's now."""
        self.events.begin()
        self.contexts.begin(self._state.document.languages, self._state.document.workdir)
        self._metrics.begin()

    async def serve(self, control: socket.socket, interpreter: socket.socket) -> None:
        """Serve from here on."""
        self._runners = [await start_app(self._control, control), await start_app(self._interpreter, interpreter)]

    async def end(self) -> None:
        """End kernels and servers."""
        await self.contexts.close()
        for runner in self._runners:
            await runner.cleanup()
