"""Puts the agent together. A zygote can make an :class:`Assembly` before the sandbox is known; ``begin`` binds it to a sandbox.

Invariant: before ``begin`` nothing here has an event loop, a descriptor, a thread, or state that must differ between sandboxes.
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
    """The applications of one agent, ready to be served. All of them share the launcher's state."""

    def __init__(self, launcher: KernelLauncher) -> None:
        state = launcher.state
        self.launcher = launcher
        self._state = state
        self.events = EventLog()
        self.contexts = Contexts((), "/", launcher.start, launcher.envs_for, self.events.record, launcher.kernelspecs)
        self._metrics = Metrics(launcher.cgroup, state)
        self._control = control_app(state, self._metrics, self.events, self.contexts)
        self.startup = Startup(state, self._control[PROCESSES], self.events)
        self._interpreter = interpreter_app(state, self.contexts, events=self.events)
        for app in (self._control, self._interpreter):
            app.freeze()
        self._runners: list[web.AppRunner] = []

    def begin(self) -> None:
        """Take the state's document as the sandbox's."""
        self.events.begin()
        self.contexts.begin(self._state.document.languages, self._state.document.workdir)
        self._metrics.begin()

    async def serve(self, control: socket.socket, interpreter: socket.socket) -> None:
        """Serve both applications on these listening sockets."""
        self._runners = [await start_app(self._control, control), await start_app(self._interpreter, interpreter)]

    async def end(self) -> None:
        """End kernels and servers."""
        await self.contexts.close()
        for runner in self._runners:
            await runner.cleanup()
