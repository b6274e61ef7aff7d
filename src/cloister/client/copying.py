"""Copies files and directories into and out of a sandbox, as one stream of its ``tar``, with modes, times and links.

``unpacking.py`` makes the files of an archive that comes from a sandbox. In the sandbox, files get the owner that unpacks them.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import tarfile
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import IO, Any, cast

from cloister.client.sandbox import Process, Program, SandboxClient
from cloister.client.unpacking import unpack_file, unpack_tree
from cloister.errors import InvalidRequestError, NotFoundError
from cloister.model.text import printable
from cloister.protocol.filesystem import FileType
from cloister.protocol.process import EndEvent

__all__ = ["download", "upload"]

_PIECE_BYTES = 1 << 20
_MAX_SAID = 4000


async def upload(sandbox: SandboxClient, source: Path, target: str, user: str | None) -> list[str]:
    """Copy a local file or directory to ``target``, into it if it is a directory. Returns what was left out, with the cause.

    Raises: NotFoundError, InvalidRequestError: it cannot be read here, or not written there.
    """
    try:
        is_directory, is_there = source.is_dir(), source.exists()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {source}: {error.strerror}") from error
    if not is_there:
        raise NotFoundError(f"there is no {source} here")
    name = source.resolve().name if source.name in ("", "..") else source.name
    parent, name = await _remote_target(sandbox, target, name, user, is_directory=is_directory)
    left_out = list[str]()
    program = Program(argv=("tar", "-xf", "-", "-o", "-C", parent), user=user, has_input=True)
    async with sandbox.start(program) as process:
        tasks = (asyncio.create_task(_drain(process, None)), asyncio.create_task(_send_archive(process, source, name, left_out)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # the events of a process cannot be closed while a task waits for one
    return left_out


async def _send_archive(process: Process, source: Path, name: str, left_out: list[str]) -> None:
    loop = asyncio.get_running_loop()
    sink = _Sink(lambda data: asyncio.run_coroutine_threadsafe(process.send(data), loop))
    try:
        await asyncio.to_thread(_pack, source.resolve(), name, sink, left_out)
    except BrokenPipeError:  # tar has ended, and its exit code says why
        pass
    except OSError as error:
        raise InvalidRequestError(f"cannot read {error.filename or source}: {error.strerror or error}") from error
    finally:
        sink.close()
    await process.close_input()


async def _remote_target(sandbox: SandboxClient, target: str, name: str, user: str | None, *, is_directory: bool) -> tuple[str, str]:
    """The directory and the name that a copy gets in the sandbox: below ``target`` if that is a directory, as with cp(1).

    Raises: NotFoundError: its directory does not exist. InvalidRequestError: a directory would replace a file.
    """
    found = await sandbox.stat(target or ".", user)
    if found is not None and found.type == FileType.FILE_TYPE_DIRECTORY:
        return found.path, name
    if found is not None and (is_directory or target.endswith("/")):
        raise InvalidRequestError(f"{target} is a file in the sandbox", hint="give another name, or a directory")
    parent, last = posixpath.split(target.rstrip("/"))
    above = await sandbox.stat(parent or ".", user)
    if above is None or above.type != FileType.FILE_TYPE_DIRECTORY or (target.endswith("/") and not is_directory):
        where = target if target.endswith("/") else parent or "."
        raise NotFoundError(f"there is no directory {where} in the sandbox", hint="`cloister exec ID -- mkdir -p DIR` makes one")
    return above.path, last


async def download(sandbox: SandboxClient, source: str, target: Path, user: str | None, *, leave_out: str = "") -> list[str]:
    """Copy a file of the sandbox to ``target``, or the contents of a directory into it, but for ``leave_out`` at its top.

    Returns what was left out, with the cause.
    Raises: NotFoundError, InvalidRequestError: it cannot be read there, or not written here.
    """
    found = await sandbox.stat(source, user)
    if found is None:
        raise NotFoundError(f"there is no {source} in the sandbox")
    is_file = found.type == FileType.FILE_TYPE_FILE
    if not is_file and found.type != FileType.FILE_TYPE_DIRECTORY:
        raise InvalidRequestError(f"{source} is no file or directory")
    parent, name = posixpath.split(found.path)
    words = ("-chf", "-", "-C", parent, "--", name) if is_file else ("-cf", "-", "-C", found.path, ".")
    reading, writing = os.pipe()
    unpacking = asyncio.create_task(asyncio.to_thread(_unpack, reading, target, None if is_file else leave_out))
    try:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            async with sandbox.start(Program(argv=("tar", *words), user=user)) as process:
                await _drain(process, pipe)
    except BrokenPipeError:  # the other end has met an error, raised below
        pass
    finally:
        (outcome,) = await asyncio.gather(unpacking, return_exceptions=True)
    if isinstance(outcome, OSError):
        raise InvalidRequestError(f"cannot copy {source} to {target}: {outcome}") from outcome
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def _drain(process: Process, sink: IO[bytes] | None) -> None:
    """Take the output of tar until it ends. Raises: InvalidRequestError, with its words: it failed."""
    said = ""
    async for event in process.events:
        if event.data is not None and event.data.stderr is not None:
            said = (said + event.data.stderr.decode(errors="replace"))[-_MAX_SAID:]
        elif event.data is not None and event.data.stdout is not None and sink is not None:
            await asyncio.to_thread(_write_all, sink, event.data.stdout)
        elif event.end is not None:
            _check(event.end, said)
            return


def _write_all(sink: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[sink.write(view) :]


def _check(end: EndEvent, said: str) -> None:
    if not end.exited or end.exit_code:
        lines = "; ".join(printable(line) for line in said.strip().splitlines()[-5:])
        raise InvalidRequestError(f"tar in the sandbox failed: {lines or end.status}")


class _Sink:
    """A file that is written only, whose pieces go to a process. A thread writes, and another one may close it.

    Raises: BrokenPipeError: it takes no more.
    """

    def __init__(self, send: Callable[[bytes], Future[bool]]) -> None:
        self._send = send
        self._sending: Future[bool] | None = None
        self._is_closed = False

    def write(self, data: bytes) -> int:
        self._sending = sending = self._send(bytes(data))
        if self._is_closed:
            sending.cancel()
        try:
            is_taken = sending.result()
        except CancelledError:
            is_taken = False
        if not is_taken:
            raise BrokenPipeError
        return len(data)

    def close(self) -> None:
        """Let a write that waits fail, and each later one."""
        self._is_closed = True
        if self._sending is not None:
            self._sending.cancel()


def _pack(source: Path, name: str, sink: _Sink, left_out: list[str]) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            left_out.append(f"{member.name}: it is no file, directory or link")
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    # GNU's format has names as they are, in any encoding
    with tarfile.open(fileobj=cast("Any", sink), mode="w|", format=tarfile.GNU_FORMAT, bufsize=_PIECE_BYTES) as archive:
        archive.add(source, arcname=name, filter=plain)


def _unpack(reading: int, target: Path, leave_out: str | None) -> list[str]:
    """Unpack into ``target``; if ``leave_out`` is None the archive has one file, which becomes ``target``."""
    with os.fdopen(reading, "rb") as pipe:
        if leave_out is not None:
            return unpack_tree(pipe, target, leave_out)
        unpack_file(pipe, target)
        return []
