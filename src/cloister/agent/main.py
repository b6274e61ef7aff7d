"""Entry point of the agent: reads the init document, starts the default kernel, and serves both APIs on sockets it was handed.

Started by pid 1 of the sandbox with the plain interpreter (``-I -S``); descriptors as in docs/architecture.md: 3 the init document,
4 and 5 the listening sockets, 6 the pipe that takes one ``R`` when the agent serves and then, if the template starts something, the
outcome of that (agent/startup.py); 7, a socket to a Python kernel that was forked for us,
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
import importlib  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from cloister.agent.cgroup import Cgroup  # noqa: E402
from cloister.agent.init import InitDocument, SandboxState, read_init  # noqa: E402
from cloister.agent.interpreter.adopted import birth_socket  # noqa: E402
from cloister.agent.interpreter.kernel import Kernel  # noqa: E402
from cloister.agent.interpreter.languages import find_language  # noqa: E402
from cloister.agent.interpreter.launch import KernelLauncher  # noqa: E402
from cloister.agent.orphans import Orphans  # noqa: E402
from cloister.errors import CloisterError  # noqa: E402

if TYPE_CHECKING:
    from cloister.agent.assembly import Assembly

_INIT_FD, _CONTROL_FD, _INTERPRETER_FD, _READY_FD, _KERNEL_FD, _ORPHANS_FD = 3, 4, 5, 6, 7, 8
_CGROUP = Path("/.cloister/cgroup")


def _drivers() -> Path:
    """``/.cloister/agent/drivers`` in a sandbox; beside the package in a checkout."""
    beside_site = _SITE.parent / "drivers"
    return beside_site if beside_site.is_dir() else Path(__file__).resolve().parent / "drivers"


def new_launcher() -> KernelLauncher:
    """The launcher of a sandbox that is still to be known."""
    return KernelLauncher(SandboxState.blank(), _drivers(), Cgroup(_CGROUP))


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


async def serve(launcher: KernelLauncher, inherited: Inherited, assembly: Assembly | None) -> None:
    """Serve until SIGTERM. Without an assembly it is made now, while the kernel starts."""
    document = launcher.state.document
    inherited.orphans.listen()
    started = None if inherited.kernel is not None else _first_kernel(document, launcher)
    if assembly is None:
        from cloister.agent.assembly import Assembly  # noqa: PLC0415  # slow

        assembly = Assembly(launcher)
    assembly.begin()
    contexts = assembly.contexts
    if started is not None:
        contexts.default("python").adopt(started)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await assembly.serve(socket.socket(fileno=_CONTROL_FD), socket.socket(fileno=_INTERPRETER_FD))
    _say(b"R")
    is_first = inherited.kernel is not None  # pid 1 gives that descriptor to the first agent only, and nobody inside can
    starting = asyncio.create_task(_start(assembly)) if document.start is not None and is_first else None
    if starting is None:
        os.close(_READY_FD)
    if inherited.kernel is not None and "python" in document.languages:
        default = contexts.default("python")
        default.expect(launcher.adopt(inherited.kernel, inherited.orphans, default.language, document.workdir))
    await stopped.wait()
    await assembly.end()


async def _start(assembly: Assembly) -> None:
    """The template's start command, once in the sandbox's life: an agent that came back after a death has no part in it."""
    _say(await assembly.startup.run())
    os.close(_READY_FD)


def _say(word: bytes) -> None:
    with contextlib.suppress(OSError):  # the other end may be closed: then nobody waits
        os.write(_READY_FD, word)


def main(assembly: Assembly | None = None) -> None:
    """Read, start, serve; with what the zygote has put together already."""
    inherited = Inherited(birth_socket(_KERNEL_FD), Orphans.at(_ORPHANS_FD))  # first: these numbers may be free
    for fd in (_INIT_FD, _CONTROL_FD, _INTERPRETER_FD, _READY_FD, _ORPHANS_FD):
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    document = read_init(_INIT_FD)
    os.environ.update(document.agent_env)
    launcher = new_launcher() if assembly is None else assembly.launcher
    launcher.state.become(document)
    asyncio.run(serve(launcher, inherited, assembly))


def _be_zygote() -> None:
    """Fork agents instead of being one; the module that forks is the drivers', which kernels' zygotes have too."""
    from cloister.agent.zygote import run  # noqa: PLC0415  # not of an agent that is started by exec

    sys.path.insert(0, str(_drivers()))
    zygote, memory = importlib.import_module("zygote"), importlib.import_module("zygote_memory")
    del sys.path[0]
    run(zygote.serve, memory.settle, new_launcher(), main)


if __name__ == "__main__":
    _be_zygote() if sys.argv[1:] == ["--zygote"] else main()
