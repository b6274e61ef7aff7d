"""Entry point of the agent: reads the init document, starts the default kernel, and serves both APIs on sockets it was handed.

Started by pid 1 of the sandbox with the plain interpreter (``-I -S``); descriptors as in docs/architecture.md: 3 the init document,
4 and 5 the listening sockets, 6 the pipe that takes one ``R`` when the agent serves; 7, a socket to a Python kernel that was forked for us,
and 8, the pipe with the ends of orphans, may be absent. Everything it imports is below the ``site`` directory that holds this file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SITE = Path(__file__).resolve().parents[2]
if str(_SITE) not in sys.path:
    sys.path.insert(0, str(_SITE))
sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # the agent has no TLS; loading it costs 60 ms and 4 MB

import asyncio  # noqa: E402
import contextlib  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
from dataclasses import dataclass  # noqa: E402

from cloister.agent.cgroup import Cgroup  # noqa: E402
from cloister.agent.init import InitDocument, SandboxState, read_init  # noqa: E402
from cloister.agent.interpreter.adopted import birth_socket  # noqa: E402
from cloister.agent.interpreter.contexts import Contexts  # noqa: E402
from cloister.agent.interpreter.kernel import Kernel  # noqa: E402
from cloister.agent.interpreter.languages import find_language  # noqa: E402
from cloister.agent.interpreter.launch import KernelLauncher  # noqa: E402
from cloister.agent.orphans import Orphans  # noqa: E402
from cloister.errors import CloisterError  # noqa: E402

_INIT_FD, _CONTROL_FD, _INTERPRETER_FD, _READY_FD, _KERNEL_FD, _ORPHANS_FD = 3, 4, 5, 6, 7, 8
_MAX_HEAD_BYTES, _MAX_HEADERS = 64 << 10, 256  # as the ingress takes them
_READ_BUFFER_BYTES = 256 << 10
_CGROUP = Path("/.cloister/cgroup")


def _drivers() -> Path:
    """``/.cloister/agent/drivers`` in a sandbox; beside the package in a checkout."""
    beside_site = _SITE.parent / "drivers"
    return beside_site if beside_site.is_dir() else Path(__file__).resolve().parent / "drivers"


def _first_kernel(document: InitDocument, launcher: KernelLauncher) -> Kernel | None:
    """The default Python kernel, started before anything slow is imported; a failure is told by the first run, which tries again."""
    if "python" not in document.languages:
        return None
    with contextlib.suppress(CloisterError):
        return launcher.start(find_language("python", document.languages), document.workdir)
    return None


@dataclass
class Inherited:
    """What pid 1 may have given beside the four descriptors that are always there."""

    kernel: socket.socket | None
    orphans: Orphans


async def serve(state: SandboxState, launcher: KernelLauncher, cgroup: Cgroup, inherited: Inherited) -> None:
    """Serve until SIGTERM."""
    document = state.document
    inherited.orphans.listen()
    started = None if inherited.kernel is not None else _first_kernel(document, launcher)
    from aiohttp import web  # noqa: PLC0415  # slow: the kernel starts meanwhile

    from cloister.agent.app import control_app  # noqa: PLC0415
    from cloister.agent.events import EventLog  # noqa: PLC0415
    from cloister.agent.interpreter.app import interpreter_app  # noqa: PLC0415
    from cloister.agent.metrics import Metrics  # noqa: PLC0415
    from cloister.agent.runner import AgentRunner  # noqa: PLC0415

    events = EventLog()
    contexts = Contexts(document.languages, document.workdir, launcher.start, launcher.envs_for, events.record)
    if started is not None:
        contexts.default("python").adopt(started)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    control = control_app(state, Metrics(cgroup, document.limits), events)
    apps = ((_CONTROL_FD, control), (_INTERPRETER_FD, interpreter_app(state, contexts, events=events)))
    runners = []
    for fd, app in apps:
        runner = AgentRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=3600,
            auto_decompress=False,  # whoever takes a compressed body checks that it is whole
            max_line_size=_MAX_HEAD_BYTES,
            max_field_size=_MAX_HEAD_BYTES,
            max_headers=_MAX_HEADERS,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        await runner.setup()
        await web.SockSite(runner, socket.socket(fileno=fd)).start()
        runners.append(runner)
    with contextlib.suppress(OSError):  # the other end may be closed: then nobody waits
        os.write(_READY_FD, b"R")
        os.close(_READY_FD)
    if inherited.kernel is not None and "python" in document.languages:
        default = contexts.default("python")
        default.expect(launcher.adopt(inherited.kernel, inherited.orphans, default.language, document.workdir))
    await stopped.wait()
    await contexts.close()
    for runner in runners:
        await runner.cleanup()


def main() -> None:
    """Read, start, serve."""
    inherited = Inherited(birth_socket(_KERNEL_FD), Orphans.at(_ORPHANS_FD))  # first: these numbers may be free
    for fd in (_INIT_FD, _CONTROL_FD, _INTERPRETER_FD, _READY_FD, _ORPHANS_FD):
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    document = read_init(_INIT_FD)
    os.environ.update(document.agent_env)
    state = SandboxState.from_document(document)
    cgroup = Cgroup(_CGROUP)
    asyncio.run(serve(state, KernelLauncher(state, _drivers(), cgroup), cgroup, inherited))


if __name__ == "__main__":
    main()
