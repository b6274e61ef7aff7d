"""What an upload that fails leaves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cloister.agent.accounts import Account
from cloister.agent.filesystem.users import Workers
from cloister.agent.transfer.upload import Upload
from cloister.errors import InvalidRequestError


class SlowWorkers(Workers):
    """Does what is waited for, in the caller's own thread, and never gets to what is not."""

    def submit(self, user: Account, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Later."""
        return Future()

    async def run(self, user: Account, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Now."""
        return action(*args, **kwargs)


async def test_room_is_free_when_the_error_is_told(tmp_path: Path) -> None:
    """A client that is told why its upload failed may use the room at once: the file is closed before."""

    async def chunks() -> AsyncIterator[bytes]:
        raise InvalidRequestError("broken")
        yield b""

    user = Account("me", os.geteuid(), os.getegid(), (), str(tmp_path), "/bin/sh")
    upload = Upload(SlowWorkers(), user, str(tmp_path), {})
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(InvalidRequestError):
        await upload._stage(str(tmp_path / "new"), chunks())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []
