"""Runs one program in a sandbox of its own (I1): isolated like any other, with a plain directory as its upper.

The upper directory becomes a layer as it is: nothing of it is copied or walked (I2).
Runs in: supervisor and builds, in worker threads. Needs: root.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from cloister.errors import DeadlineError, RuntimeFailedError
from cloister.ids import new_sandbox_id
from cloister.linux.mounts import MountFlag, clone_tree
from cloister.runtime.namespace.plan import Payload
from cloister.runtime.namespace.rootfs import close_with
from cloister.runtime.namespace.slots import SlotStarter
from cloister.runtime.spec import BUILD_SHARING, SandboxSpec, StepSpec

__all__ = ["run_program", "run_step"]


class _Start(Protocol):
    """:meth:`SlotStarter.start` with the rest of its arguments."""

    def __call__(self, *, fds: list[tuple[str, int]], undo: ExitStack) -> object:
        """The started slot."""


_USERS = {"root": 0, "user": 1000}


def run_step(starter: SlotStarter, step: StepSpec, log: Callable[[bytes], None]) -> int:
    """See :meth:`cloister.runtime.base.Runtime.run_step`."""
    uid = _USERS.get(step.user)
    if uid is None:
        raise RuntimeFailedError(f"a build step cannot run as {step.user!r}", hint=f"known: {', '.join(_USERS)}")
    sandbox = SandboxSpec(
        sandbox_id=f"{step.name}-{new_sandbox_id()}",
        sharing=BUILD_SHARING,
        directory=step.work,
        layers=step.layers if step.host_layer is None else (*step.layers, step.host_layer),
        agent=step.agent,
        limits=step.limits,
        egress=step.egress,
        mounts=step.mounts,
    )
    keep = () if step.descriptor is None else ("descriptor",)
    payload = Payload(argv=step.argv, envs=step.envs, cwd=step.cwd, uid=uid, gid=uid, keep=keep)
    given = [] if step.descriptor is None else [("descriptor", step.descriptor)]
    with _writable_directory(step) as writable:

        def upper(userns_fd: int, mounts: ExitStack) -> int:
            return close_with(mounts, clone_tree(writable, MountFlag.NO_DEV, userns_fd=userns_fd))

        return run_program(partial(starter.start, sandbox, payload, upper=upper), given, log, step.timeout_s)


def run_program(start: _Start, given: list[tuple[str, int]], log: Callable[[bytes], None], timeout_s: float) -> int:
    """Run the payload of a slot to its end; gives its exit status. ``start`` makes the slot, which has the descriptors ``given``.

    Raises: as :meth:`cloister.runtime.base.Runtime.run_step`.
    """
    with ExitStack() as undo:
        output, output_writer = os.pipe()
        undo.callback(os.close, output)
        status, status_writer = os.pipe()
        undo.callback(os.close, status)
        try:
            start(fds=[("log", output_writer), ("status", status_writer), *given], undo=undo)
        finally:
            os.close(output_writer)  # else the end of the program's output would never be read
            os.close(status_writer)
        return _follow(output, status, log, timeout_s)


@contextmanager
def _writable_directory(step: StepSpec) -> Iterator[Path]:
    """A directory that holds the step's upper as ``u`` and its work directory as ``w``, as native/slot.c expects it.

    overlayfs wants both on one mount, so the sandbox gets their parent. They are renamed into it, and renamed back when the sandbox has
    ended. Without an upper the work directory itself is that parent, and the slot makes both in it.
    """
    if step.upper is None:
        yield step.work
        return
    parts = {"u": step.upper, "w": step.work}
    parent = step.upper.parent / f".{step.upper.name}.pair"
    parent.mkdir(mode=0o755)
    for name, path in parts.items():
        path.rename(parent / name)
    try:
        yield parent
    finally:
        for name, path in parts.items():
            (parent / name).rename(path)
        parent.rmdir()


def _follow(output: int, status: int, log: Callable[[bytes], None], timeout_s: float) -> int:
    poller = select.poll()
    poller.register(output, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        if not poller.poll(int(left * 1000)):
            continue
        data = os.read(output, 65536)
        if data:
            log(data)
            continue
        found = re.match(rb"(\d+)\n", os.read(status, 64))
        if found is None:
            raise RuntimeFailedError("the build step's sandbox ended without a status")
        return int(found[1])
    raise DeadlineError(f"the step took longer than {timeout_s:.0f} s")
