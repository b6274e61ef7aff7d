"""The interface of a runtime: one way to isolate a sandbox. Everything above it knows this interface and no implementation.

Calls block and are made from worker threads; implementations are thread-safe. A runtime declares in :class:`RuntimeCapabilities` what it
can do beyond creating and ending sandboxes. A caller checks a flag before it uses the methods that the flag names. How to write a
runtime: docs/howto/add-a-runtime.md. Runs in: supervisor and builds. Needs: nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cloister.errors import InvalidRequestError, RuntimeFailedError
from cloister.model.network import EgressPolicy
from cloister.model.node import SandboxUsage
from cloister.model.resources import Limits
from cloister.model.volume import VolumeMount
from cloister.protocol.dialled import Dialled
from cloister.runtime.spec import SandboxSpec, StepSpec

__all__ = ["BrokenSandboxError", "Runtime", "RuntimeCapabilities", "RuntimeSandbox"]


class BrokenSandboxError(RuntimeFailedError):
    """A process of the sandbox was broken. It must be ended; its disk is whole."""

    code = "sandbox_broken"


@dataclass(frozen=True, kw_only=True)
class RuntimeCapabilities:
    """The optional abilities of a runtime. Where a flag is not set, the methods that it names may raise."""

    hand_over: bool = False
    """A sandbox can be made before its request comes: :meth:`RuntimeSandbox.rewrite_init`, :meth:`RuntimeSandbox.set_egress`."""
    freeze: bool = False
    """:meth:`RuntimeSandbox.freeze`, :meth:`RuntimeSandbox.thaw`, :meth:`RuntimeSandbox.frozen`, :meth:`RuntimeSandbox.page_out`,
    :meth:`RuntimeSandbox.swapped_bytes`.
    """
    keep_disk: bool = False
    """A disk can outlive its processes: :meth:`RuntimeSandbox.keep_disk`, :attr:`SandboxSpec.has_disk`, :meth:`Runtime.find_disk`."""
    checkpoint: bool = False
    """Memory can be saved: :meth:`RuntimeSandbox.checkpoint`, :meth:`RuntimeSandbox.copy_disk`, :meth:`Runtime.close_copy`,
    :meth:`Runtime.restore`. Known after :meth:`Runtime.probe`.
    """
    open_disk: bool = False
    """:meth:`RuntimeSandbox.open_disk`, :meth:`RuntimeSandbox.disk_room`."""
    run_steps: bool = False
    """:meth:`Runtime.run_step`."""
    host_ports: bool = False
    """:meth:`RuntimeSandbox.host_port`."""
    volumes: bool = False
    """:attr:`SandboxSpec.volumes`."""
    late_volumes: bool = False
    """Volumes can be mounted into a sandbox that was made ahead: :meth:`RuntimeSandbox.mount_volumes`."""

    def require(self, runtime: str, *needed: str) -> None:
        """Check that the runtime of that name has all ``needed`` flags. Raises: InvalidRequestError, which says what it cannot do."""
        lacking = [_WORDS[name] for name in needed if not getattr(self, name)]
        if lacking:
            raise InvalidRequestError(f"the runtime {runtime!r} cannot {' or '.join(lacking)}")


_WORDS = {
    "hand_over": "create a sandbox before its request",
    "freeze": "freeze a sandbox",
    "keep_disk": "keep the disk of a sandbox without its processes",
    "checkpoint": "save the memory of a sandbox",
    "open_disk": "read the disk of a sandbox",
    "run_steps": "run the steps of a template build",
    "host_ports": "connect a sandbox to a port of the host",
    "volumes": "mount volumes",
    "late_volumes": "mount volumes later",
}


class RuntimeSandbox(Protocol):
    """A live sandbox in the hands of its runtime."""

    cold: tuple[str, ...]
    """Processes started by exec rather than forked from a prepared one: ``agent``, ``kernel``."""

    starting: int | None
    """Readable when the outcome of the template's start command is known (:meth:`take_start`); None: there is nothing to wait for."""

    why_ended: str
    """Text that follows "has ended" in an error, where the node knows the cause; else empty."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """Those of its runtime."""
        ...

    @property
    def pidfd(self) -> int:
        """Readable when the sandbox has ended, whoever ended it."""
        ...

    @property
    def network_slot(self) -> int:
        """The number by which the network knows it."""
        ...

    @property
    def trees(self) -> tuple[Path, ...]:
        """The directories of the host that it stands on: its layers, lowest first, then others."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may use."""
        ...

    def state(self) -> dict[str, Any]:
        """What :meth:`Runtime.adopt` needs after a restart, JSON-ready. ``pid`` and ``start_ticks`` name a process that lives as long."""
        ...

    def dial(self) -> Dialled:
        """A fresh, unconnected TCP socket that reaches the sandbox, and nothing else; the caller closes it. Raises: IsolationError."""
        ...

    def take_start(self) -> None:
        """Read the outcome of the template's start command; ``starting`` is readable, and None afterwards.

        Raises: StartFailedError, also when the outcome is not there.
        """
        ...

    def usage(self) -> SandboxUsage:
        """What it uses now."""
        ...

    def cpu_used_s(self) -> float:
        """Its processor time so far; cheaper than :meth:`usage`. It has not run since if it has not changed."""
        ...

    def kill(self) -> None:
        """End every process of it and wait until they are gone. Idempotent."""
        ...

    def has_ended(self) -> bool:
        """Whether all its processes are gone."""
        ...

    def release(self) -> None:
        """Give back everything it held. After :meth:`kill`; idempotent."""
        ...

    # ---- with the capability hand_over ----

    def rewrite_init(self, document: bytes) -> None:
        """Replace the init document, which an agent reads when it is started again. Not for an adopted sandbox."""
        ...

    def set_egress(self, policy: EgressPolicy) -> None:
        """Change what the sandbox may reach, now, also for connections that are open."""
        ...

    def join_team(self, team_id: str) -> None:
        """The sandbox, which was made ahead for no team, is this team's from now on."""
        ...

    # ---- with the capability late_volumes ----

    def mount_volumes(self, volumes: tuple[VolumeMount, ...], *, has_run: bool) -> bool:
        """Mount a client's volumes into a sandbox that was made ahead. ``has_run``: a program of its template runs, or did.

        False: not at these places, where programs inside may have seen something else; end the sandbox then, and make another one.
        Raises: as :meth:`Runtime.create`; NotFoundError.
        """
        ...

    # ---- with the capability freeze ----

    def freeze(self) -> None:
        """Stop every process of it until :meth:`thaw`, also beyond the end of this process; :meth:`Runtime.adopt` finds it stopped.

        Idempotent. Raises: DeadlineError, RuntimeFailedError (it is being ended), OSError; it runs on then.
        """
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """Stop every process of it for the time of the block; one block at a time. Raises: as :meth:`freeze`.

        After the block they run again, unless :meth:`freeze` was called before or meanwhile. A :meth:`kill` ends them in any case.
        """
        ...

    def thaw(self) -> None:
        """Let its processes run again if they are frozen; during a block of :meth:`frozen`, at its end. Raises: OSError."""
        ...

    def page_out(self) -> int:
        """Move its memory to the host's swap while it is frozen; gives the bytes that left. Without swap nothing leaves.

        A thaw does not wait for it. The memory comes back page by page when it is used. Raises: RuntimeFailedError (it is not frozen),
        OSError.
        """
        ...

    def swapped_bytes(self) -> int:
        """Memory of it that is in swap; :meth:`usage` does not count it. Raises: OSError."""
        ...

    # ---- with the capability keep_disk ----

    def keep_disk(self) -> None:
        """Close its disk, after :meth:`kill`, so that a later :meth:`Runtime.create` can use it; :meth:`release` leaves it where it is.

        Everything that its programs have written is stored for good when this returns. :meth:`state` names only the ``trees`` then. No
        other call may use the sandbox meanwhile, and only :meth:`state` and :meth:`release` afterwards. Idempotent. After an error the
        disk stays too: a creation on it waits until it is closed, and checks it.

        Raises: RuntimeFailedError, OSError.
        """
        ...

    # ---- with the capability checkpoint ----

    def checkpoint(self, directory: Path, *, is_durable: bool = True) -> int:
        """Save its processes and their memory, while it is frozen, into ``directory``, which must not exist; gives the bytes of the image.

        Nothing changes for the sandbox: it stays frozen, whatever happens, and it is whole unless this raises BrokenSandboxError.
        The image has its name when it is whole and, if it is to be durable, on the disk. It fits the disk as that is now, and stays
        usable as long as :attr:`trees` are held, also after a new release of the server.

        Raises: ConflictError (its state cannot be saved), UnavailableError (no room), BrokenSandboxError, RuntimeFailedError,
        DeadlineError, OSError.
        """
        ...

    def write_disk(self) -> None:
        """Write its disk out while it runs, so that :meth:`copy_disk` takes less time. Raises: RuntimeFailedError, OSError."""
        ...

    def copy_disk(self, directory: Path) -> None:
        """Copy its disk into ``directory`` while it is frozen, for :meth:`Runtime.close_copy`. Nothing changes for the sandbox.

        Raises: RuntimeFailedError, OSError.
        """
        ...

    # ---- with the capability open_disk ----

    def open_disk(self, userns_fd: int) -> int:
        """Mount its disk for another sandbox, whose user namespace is ``userns_fd``: read-only, id-mapped to it.

        The writes to its root are below ``u`` of the mount. The caller closes the detached mount. Not after :meth:`release`.
        Raises: IsolationError, RuntimeFailedError.
        """
        ...

    def disk_room(self) -> tuple[int, int]:
        """Bytes and files that its programs can still write. Not after :meth:`release`."""
        ...

    # ---- with the capability host_ports ----

    def host_port(self, host: str, port: int) -> AbstractContextManager[None]:
        """For the time of the block, connections inside the sandbox to ``host`` and ``port`` reach the same on this host.

        Raises: UnavailableError, when nothing listens there; IsolationError, OSError.
        """
        ...


class Runtime(Protocol):
    """Creates sandboxes and adopts those that survived a restart of the supervisor."""

    name: str

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What it can do on this host."""
        ...

    def prepare(self, spec: SandboxSpec) -> None:
        """Prepare what speeds up creations from the template of ``spec``, or find that it cannot be prepared; may take seconds."""
        ...

    def has_room(self, sharing_key: str) -> bool:
        """Whether another sandbox with this :attr:`Sharing.key` can be created now."""
        ...

    def let_go(self, idle_s: float) -> list[str]:
        """Give back what is prepared for templates that had no sandbox for so long; says what was given back."""
        ...

    def stop_preparing(self) -> None:
        """End the prepared processes and wake all that wait for one: the node is about to stop. Sandboxes go on."""
        ...

    def prepared(self) -> dict[str, int]:
        """How many prepared processes of each kind are ready to be copied into sandboxes now."""
        ...

    def create(self, spec: SandboxSpec, on_started: Callable[[dict[str, Any]], None]) -> RuntimeSandbox:
        """A sandbox whose agent serves. The template's start command may still run (:attr:`RuntimeSandbox.starting`).

        ``on_started(state)`` is called as soon as there is something to adopt.

        Raises: IsolationError (a hardening step failed), RuntimeFailedError (the agent did not start, or the disk that it is to go on
        with is damaged), NoCapacityError. Nothing of the sandbox is left when it raises, but a disk that was there before.
        """
        ...

    def adopt(self, spec: SandboxSpec, state: dict[str, Any]) -> RuntimeSandbox | None:
        """The sandbox that ``state`` describes, if it lives; None if not.

        Raises: IsolationError, OSError, ConflictError (another runtime has its block or its control group) when it lives and cannot be
        taken over; it is ended then.
        """
        ...

    def probe(self, spec: SandboxSpec) -> None:
        """Try the optional capabilities that only a sandbox can prove, with a throw-away one made from ``spec``; may take seconds.

        Called once, before sandboxes of clients. ``capabilities`` tells the outcome, the log the reason.
        """
        ...

    def close_copy(self, directory: Path) -> None:
        """Check the copy of a disk that :meth:`RuntimeSandbox.copy_disk` made, and close it, so that :meth:`restore` can use it.

        It is stored for good when this returns. Raises: RuntimeFailedError (it is damaged), IsolationError, NoCapacityError, OSError.
        """
        ...

    def restore(
        self, spec: SandboxSpec, image: Path, on_started: Callable[[dict[str, Any]], None], disk_from: Path | None = None
    ) -> RuntimeSandbox:
        """With the capability ``checkpoint``: a sandbox that goes on where the one of the image stood, with its id or another one.

        ``spec`` has a disk (:attr:`SandboxSpec.has_disk`): the one that the image was saved with, or a copy. The image stays, and can be
        restored again. With ``disk_from``, the directory of a closed copy, the sandbox gets a disk like that one, and has none before. It
        runs when this returns; a copy has its own host name, boot id and address, and the agent and its tokens
        as the image has them. ``on_started`` as for :meth:`create`.

        Raises: UnavailableError (this image cannot be restored here; nothing was made), and as :meth:`create`.
        """
        ...

    def find_disk(self, spec: SandboxSpec) -> bool:
        """With the capability ``keep_disk``: whether the disk of a sandbox whose processes are gone is in the directory of ``spec``.

        After a restart. If it is there, it is stored for good when this returns; a creation on it checks it if a crash left it open.
        Raises: RuntimeFailedError (something still has it open), OSError.
        """
        ...

    def run_step(self, step: StepSpec, log: Callable[[bytes], None], /) -> int:
        """With the capability ``run_steps``: run one program in a sandbox of its own; gives its exit status.

        ``log`` gets its output, stdout and stderr mixed, as it comes. Nothing of the sandbox is left afterwards.
        Raises: IsolationError, NoCapacityError, RuntimeFailedError, DeadlineError when it takes longer than ``timeout_s``.
        """
        ...

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """Remove what belongs to this runtime and to no sandbox that is ``known``; says what was removed.

        Control groups that no runtime claims are the node's to remove. ``known`` is asked from this thread, after the look at what there
        is, so that a sandbox that is created meanwhile is kept. Called after every :meth:`adopt` and before the first :meth:`create`.
        """
        ...

    def survey(self) -> list[str]:
        """A line for each object that this runtime holds now beside control groups, disks and the network, which are the node's."""
        ...

    def stop(self) -> None:
        """Remove every sandbox and helper of this runtime. The resources that runtimes share stay: the node removes them afterwards."""
        ...
