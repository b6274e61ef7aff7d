"""The sandbox of one MCP session: created on first use, kept alive by use, killed at the end of the session.

Invariant: the end of a session kills the sandbox that this process requested, even if the requesting call was cancelled. If this process is
killed, the sandbox ends at its own time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from e2b_code_interpreter import AsyncSandbox, NotFoundException, SandboxException

from cloister_mcp.options import SandboxOptions
from cloister_mcp.transcript import Transcript

__all__ = ["BackgroundCommand", "Session"]

_CREATION_TIMEOUT_S = 60
_KILL_TIMEOUT_S = 5


@dataclass
class BackgroundCommand:
    """A command that runs on while other tools are called."""

    command: str
    transcript: Transcript
    task: asyncio.Task[int] = field(repr=False)
    """Ends with the exit code."""


class Session:
    """See the module."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._lock = asyncio.Lock()
        self._making: asyncio.Task[AsyncSandbox] | None = None
        self._end_at = 0.0
        """By the monotonic clock: until then the server keeps the sandbox."""
        self._closed = False
        self._has_lost = False
        """Whether a sandbox ended by itself, and no call has been told."""
        self.commands: dict[int, BackgroundCommand] = {}

    async def sandbox(self, for_s: float = 0) -> AsyncSandbox:
        """The sandbox, for a call of up to ``for_s`` seconds, and the idle time after it."""
        async with self._lock:
            if self._closed:
                raise SandboxException("the session has ended")
            lifetime_s = int(for_s + self._options.idle_s + 1)
            if self._making is not None:
                sandbox = await self._prolong(lifetime_s)
                if sandbox is not None:
                    return sandbox
            self._end_at = time.monotonic() + lifetime_s
            self._making = asyncio.create_task(self._make(lifetime_s))
            try:
                return await asyncio.shield(self._making)
            except Exception:  # a creation that failed is tried again by the next call
                self._making = None
                raise

    async def _prolong(self, lifetime_s: int) -> AsyncSandbox | None:
        """The sandbox that there is, with at least that much time; None: it has ended."""
        assert self._making is not None
        sandbox = await asyncio.shield(self._making)
        now = time.monotonic()
        if self._end_at < now + lifetime_s - self._options.idle_s / 4:
            try:
                await sandbox.set_timeout(lifetime_s)
            except NotFoundException:
                self._forget()
                self._has_lost = True
                return None
            self._end_at = now + lifetime_s
        return sandbox

    async def _make(self, lifetime_s: int) -> AsyncSandbox:
        return await AsyncSandbox.create(
            self._options.template,
            timeout=lifetime_s,
            envs=dict(self._options.envs),
            metadata={"client": "cloister-mcp"},
            allow_internet_access=self._options.internet,
            request_timeout=_CREATION_TIMEOUT_S,
        )

    def _forget(self) -> None:
        for command in self.commands.values():
            command.task.cancel()
        self.commands.clear()
        self._making = None

    def take_renewed(self) -> bool:
        """Whether the sandbox is another one than that of the last call; true once."""
        renewed, self._has_lost = self._has_lost and self._making is not None, False
        return renewed

    async def has_ended(self) -> bool:
        """Whether the sandbox is gone; the next call then makes another one."""
        async with self._lock:
            if self._making is None or not self._making.done():
                return False
            with contextlib.suppress(SandboxException):
                if await self._making.result().is_running():
                    return False
                self._forget()
                return True
            return False

    async def reset(self) -> None:
        """Kill the sandbox; the next call makes another one."""
        async with self._lock:
            await self._kill()

    async def close(self) -> None:
        """End the session and its sandbox."""
        async with self._lock:
            self._closed = True
            await self._kill()

    async def _kill(self) -> None:
        making = self._making
        self._forget()
        if making is not None:
            with contextlib.suppress(SandboxException, TimeoutError):
                async with asyncio.timeout(_KILL_TIMEOUT_S):
                    await (await asyncio.shield(making)).kill()
