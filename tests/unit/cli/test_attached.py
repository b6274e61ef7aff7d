"""Programs on this process's streams, in a sandbox that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

import pytest

from cloister.cli import attached
from cloister.client.sandbox import Program, SandboxClient
from cloister.protocol.process import ProcessEvent


class SilentProcess:
    """Prints nothing, does not end, and takes no signal."""

    def __init__(self) -> None:
        self.events = self._events()

    async def _events(self) -> AsyncGenerator[ProcessEvent]:
        await asyncio.Event().wait()
        yield ProcessEvent()

    async def terminate(self) -> None:
        """Never answers."""
        await asyncio.Event().wait()


class SilentSandbox:
    """Starts such a process."""

    @contextlib.asynccontextmanager
    async def start(self, program: Program) -> AsyncIterator[SilentProcess]:
        """See SandboxClient."""
        assert program.argv
        yield SilentProcess()


async def test_an_interrupt_ends_the_command_although_the_sandbox_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's SIGTERM has a deadline."""
    monkeypatch.setattr(attached, "_TERMINATE_S", 0.05)
    running = asyncio.create_task(attached.run_attached(cast("SandboxClient", SilentSandbox()), Program(argv=("true",))))
    await asyncio.sleep(0.05)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done
    assert running.cancelled()
