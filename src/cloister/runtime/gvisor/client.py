"""Starts ``runsc`` for one sandbox, and finds the two processes that the sandbox is: its kernel and its gofer.

    <run>/gvisor/notes/          what runsc keeps of each sandbox (--root)
    <run>/gvisor/boxes/<id>/     the bundle: config.json

Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I1, I6, I8.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.errors import IsolationError, RuntimeFailedError
from cloister.linux.files import make_directory
from cloister.linux.process import start_ticks
from cloister.runtime.gvisor.bundle import config, global_flags
from cloister.runtime.gvisor.launch import Plan, choose_place
from cloister.runtime.spec import SandboxSpec

__all__ = ["Box", "Client", "Member"]

_START_TIMEOUT_S = 60.0
_SAVE_TIMEOUT_S = 120.0
_MAX_WORDS = 600


@dataclass(frozen=True)
class Member:
    """A process of a sandbox."""

    pid: int
    start_ticks: int


@dataclass(frozen=True)
class Box:
    """The two processes of a sandbox; it is whole only with both."""

    kernel: Member
    gofer: Member


class Client:
    """Starts sandboxes by the program that ``find`` gives; ``directory`` is this runtime's own."""

    def __init__(self, find: Callable[[], Path], directory: Path) -> None:
        self._find = find
        self._notes = directory / "notes"
        self._boxes = directory / "boxes"
        for path in (directory, self._notes, self._boxes):
            make_directory(path)

    def start(self, spec: SandboxSpec, plan: Plan, stdio: tuple[int, int], image: Path | None = None) -> Box:
        """Start the processes; with an ``image``, as they were when that was saved (:meth:`save`).

        ``stdio`` are descriptors 0 and 1 of the sandbox's first process.

        Raises: IsolationError, RuntimeFailedError.
        """
        bundle = self._boxes / spec.sandbox_id
        make_directory(bundle)
        runsc = self._find()
        place = choose_place(bundle, runsc, *([] if image is None else [image]))
        command = ["run"] if image is None else ["restore", "--background", f"--image-path={image}"]
        flags = global_flags(runsc, self._notes, has_volumes=bool(spec.volumes))
        argv = [*flags, *command, "--detach", f"--bundle={bundle}", spec.sandbox_id]
        made = replace(plan, place=place, argv=argv)
        document = config(spec, place, made.first_id)
        (bundle / "config.json").write_text(json.dumps(document))
        with ExitStack() as opened:
            said = os.memfd_create("said")
            opened.callback(os.close, said)
            given = os.memfd_create("plan")
            opened.callback(os.close, given)
            os.write(given, made.to_json())
            os.lseek(given, 0, os.SEEK_SET)
            self._run(given, stdio, said, (made.disk_fd, made.netns_fd, *made.group_fds, *made.volume_fds))
        return self._found(spec.sandbox_id)

    def _run(self, plan: int, stdio: tuple[int, int], said: int, inherited: tuple[int, ...]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cloister.runtime.gvisor.launch", str(plan)],
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=said,
            pass_fds=(plan, *inherited),
            start_new_session=True,
            cwd="/",
        )
        try:
            status = process.wait(_START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeFailedError(f"runsc did not start the sandbox within {_START_TIMEOUT_S:g} s") from None
        if status:
            words = " ".join(os.pread(said, 1 << 16, 0).decode(errors="replace").split())[-_MAX_WORDS:]
            raise IsolationError(f"runsc did not start the sandbox (status {status}): {words}", step="runsc")

    def save(self, sandbox_id: str, image: Path) -> None:
        """Save the memory of a sandbox and its processes into the directory ``image``, which is made; the sandbox goes on.

        Raises: RuntimeFailedError.
        """
        make_directory(image)
        self._ask("checkpoint", f"--image-path={image}", "--compression=none", "--leave-running", sandbox_id)

    def pause(self, sandbox_id: str) -> None:
        """Stop the programs of a sandbox; its kernel and its gofer run on. Idempotent. Raises: RuntimeFailedError."""
        if not self.is_paused(sandbox_id):
            self._ask("pause", sandbox_id)

    def resume(self, sandbox_id: str) -> None:
        """Undo :meth:`pause`. Idempotent. Raises: RuntimeFailedError."""
        if self.is_paused(sandbox_id):
            self._ask("resume", sandbox_id)

    def is_paused(self, sandbox_id: str) -> bool:
        """Whether ``runsc`` has noted that the programs stand still."""
        try:
            return bool(json.loads(self._note_of(sandbox_id).read_text()).get("status") == "paused")
        except (OSError, ValueError):
            return False

    def _ask(self, *words: str) -> None:
        argv = [*global_flags(self._find(), self._notes), *words]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_SAVE_TIMEOUT_S, check=False, cwd="/", env={})
        except subprocess.TimeoutExpired:
            raise RuntimeFailedError(f"runsc {words[0]} took longer than {_SAVE_TIMEOUT_S:g} s") from None
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split())[-_MAX_WORDS:]
            raise RuntimeFailedError(f"runsc {words[0]} failed (status {done.returncode}): {said}")

    def _found(self, sandbox_id: str) -> Box:
        note = self._note_of(sandbox_id)
        try:
            state: dict[str, Any] = json.loads(note.read_text())
            pids = (int(state["sandbox"]["pid"]), int(state["goferPid"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IsolationError(f"runsc left no note of the sandbox's processes: {error}", step="runsc", path=str(note)) from error
        kernel, gofer = (Member(pid, start_ticks(pid) or 0) for pid in pids)
        return Box(kernel, gofer)

    def _note_of(self, sandbox_id: str) -> Path:
        return self._notes / f"{sandbox_id}_sandbox:{sandbox_id}.state"

    def forget(self, sandbox_id: str) -> None:
        """Remove the files of a sandbox whose processes have ended. Idempotent."""
        for path in self._notes.glob(f"*{sandbox_id}*"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._boxes / sandbox_id, ignore_errors=True)

    def known(self) -> set[str]:
        """The ids of all sandboxes that have files here."""
        return {path.name for path in self._boxes.iterdir()}

    def stop(self) -> None:
        """Remove the files of all."""
        for sandbox_id in self.known():
            self.forget(sandbox_id)
