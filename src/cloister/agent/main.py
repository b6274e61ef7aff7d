"""Entry point of the agent: reads the init document, starts the default kernel, and serves both APIs on inherited sockets.

Pid 1 of the sandbox starts it with the plain interpreter (``-I -S``) and these descriptors (docs/architecture.md)::

    3  the init document.
    4  the listening socket of the envd-compatible API.
    5  the listening socket of the code-interpreter API.
    6  the ready pipe (protocol/ready.py).
    7  a socket to a Python kernel that was forked for this sandbox; may be absent.
    8  the pipe with the ends of orphans; may be absent.
    9  the listening socket of the relay (relay.py); may be absent.

Everything it imports is below the ``site`` directory that holds this file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SITE = Path(__file__).resolve().parents[2]
if str(_SITE) not in sys.path:
    sys.path.insert(0, str(_SITE))
sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # the agent has no TLS; loading it costs 60 ms and 4 MB

import asyncio
import contextlib
import importlib
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloister.agent.cgroup import Cgroup
from cloister.agent.clock import PausableLoop
from cloister.agent.interpreter.adopted import birth_socket
from cloister.agent.interpreter.kernel import Kernel
from cloister.agent.interpreter.languages import find_language
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.orphans import Orphans
from cloister.agent.relay import listener_at, serve_relay
from cloister.agent.state import AgentState, read_init
from cloister.agent.told import tell_ids
from cloister.agent.trust import follow_authority
from cloister.errors import CloisterError
from cloister.protocol.init_document import InitDocument
from cloister.protocol.ready import SERVING

if TYPE_CHECKING:
    from cloister.agent.assembly import Assembly

_INIT_FD, _CONTROL_FD, _INTERPRETER_FD, _READY_FD, _KERNEL_FD, _ORPHANS_FD, _RELAY_FD = 3, 4, 5, 6, 7, 8, 9
_SMALL_OBJECTS_MIB = 10
"""About what the interpreter of a zygote has for small objects at the end."""
_MOUNTS = Path("/.cloister")
_CGROUP = Path("/.cloister/cgroup")


def _drivers() -> Path:
    """``/.cloister/agent/drivers`` in a sandbox; beside the package in a checkout."""
    beside_site = _SITE.parent / "drivers"
    return beside_site if beside_site.is_dir() else Path(__file__).resolve().parent / "drivers"


def new_launcher() -> KernelLauncher:
    """A launcher for a sandbox that is not known yet."""
    return KernelLauncher(AgentState.blank(), _drivers(), Cgroup(_CGROUP))


def _first_kernel(document: InitDocument, launcher: KernelLauncher) -> Kernel | None:
    """The default Python kernel, started before slow imports. If this fails, the first run tries again and reports the error."""
    if "python" not in document.languages:
        return None
    with contextlib.suppress(CloisterError):
        return launcher.start(find_language("python", document.languages), document.workdir)
    return None


@dataclass
class Inherited:
    """The descriptors that pid 1 gives only sometimes."""

    kernel: socket.socket | None
    orphans: Orphans
    relay: socket.socket | None


async def serve(launcher: KernelLauncher, inherited: Inherited, assembly: Assembly | None) -> None:
    """Serve until SIGTERM. Without an assembly, make it now, while the kernel starts."""
    document = launcher.state.document
    inherited.orphans.listen()
    started = None if inherited.kernel is not None else _first_kernel(document, launcher)
    if assembly is None:
        from cloister.agent.assembly import Assembly  # noqa: PLC0415 - slow

        assembly = Assembly(launcher)
    assembly.begin()
    follow_authority(document.ca_bundle, assembly.events)
    contexts = assembly.contexts
    if started is not None:
        contexts.default("python").adopt(started)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await assembly.serve(socket.socket(fileno=_CONTROL_FD), socket.socket(fileno=_INTERPRETER_FD))
    relay = None if inherited.relay is None else await serve_relay(inherited.relay)
    _say(SERVING)
    is_first = inherited.kernel is not None  # pid 1 gives that descriptor to the first agent only, and no other process inside can
    starting = asyncio.create_task(_start(assembly)) if document.start is not None and is_first else None
    if starting is None:
        os.close(_READY_FD)
    if inherited.kernel is not None and "python" in document.languages:
        default = contexts.default("python")
        default.expect(launcher.adopt(inherited.kernel, inherited.orphans, default.language, document.workdir))
    await stopped.wait()
    if relay is not None:
        relay.close()
    await assembly.end()


async def _start(assembly: Assembly) -> None:
    """Run the template's start command. Only the first agent of a sandbox does; one that pid 1 started again does not."""
    _say(await assembly.startup.run())
    os.close(_READY_FD)


def _say(word: bytes) -> None:
    with contextlib.suppress(OSError):  # the supervisor may have closed the other end
        os.write(_READY_FD, word)


def main(assembly: Assembly | None = None) -> None:
    """Read the init document, start, serve; with the assembly that the zygote has made already."""
    # Before anything else is opened: these numbers may be free.
    inherited = Inherited(birth_socket(_KERNEL_FD), Orphans.at(_ORPHANS_FD), listener_at(_RELAY_FD))
    for fd in (_INIT_FD, _CONTROL_FD, _INTERPRETER_FD, _READY_FD, _ORPHANS_FD):
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    document = read_init(_INIT_FD)
    launcher = new_launcher() if assembly is None else assembly.launcher
    launcher.state.become(document, _INIT_FD)
    try:
        if _MOUNTS.is_dir():  # else this is no sandbox, but a test of the agent alone
            tell_ids(document)
    except OSError as error:  # the disk is full, or the template has something else there; the environment tells the same
        print(f"cannot write the ids of the sandbox: {error}", file=sys.stderr, flush=True)
    with asyncio.Runner(loop_factory=PausableLoop) as runner:
        runner.run(serve(launcher, inherited, assembly))


def _be_zygote() -> None:
    """Fork agents instead of being one. The module that forks belongs to the drivers: the kernel zygote uses it, too."""
    sys.path.insert(0, str(_drivers()))
    zygote, memory = importlib.import_module("zygote"), importlib.import_module("zygote_memory")
    room = importlib.import_module("zygote_room").make_room(_SMALL_OBJECTS_MIB)
    del sys.path[0]
    from cloister.agent.zygote import run  # noqa: PLC0415 - not of an agent that is started by exec

    run(zygote.serve, memory.settle, new_launcher(), main)
    del room


if __name__ == "__main__":
    _be_zygote() if sys.argv[1:] == ["--zygote"] else main()
