"""One client process of a concurrent row: reads a job, prints ``ready``, waits for ``go TIME``, works, prints its samples as JSON.

TIME is of the monotonic clock, which all processes of a host share, so several clients can begin at the same moment. The client kills a
job's sandboxes after the last answer, which is not timed. In a loop, the kill is part of the round.

    job    {"url", "api_key", "kind": "sdk" | "raw", "first": "command" | "code", "offsets": [s, …] | null, "workers": n, "duration_s": s}
    said   {"samples": {name: [ms]}, "errors": [text], "tried": n, "created": monotonic, "ended": monotonic, "cpu_s": s}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.rawclient import RawClient
from bench.stats import Samples
from e2b_code_interpreter import AsyncSandbox

_OPERATION_S = 60.0
_LIFETIME_S = 600


class Client(ABC):
    """The three timed operations. ``create`` returns a sandbox of any type."""

    @abstractmethod
    async def create(self) -> Any:
        """A new sandbox."""

    @abstractmethod
    async def first(self, sandbox: Any, kind: str) -> None:
        """The first answer, of a command or of code. Raises if it is wrong."""

    @abstractmethod
    async def kill(self, sandbox: Any) -> None:
        """End it."""


class SdkClient(Client):
    """The official Python SDK, asynchronous."""

    def __init__(self, url: str, api_key: str) -> None:
        self._options: dict[str, Any] = {"api_key": api_key, "api_url": url, "sandbox_url": url}

    async def create(self) -> Any:
        """A new sandbox."""
        return await AsyncSandbox.create(timeout=_LIFETIME_S, **self._options)

    async def first(self, sandbox: Any, kind: str) -> None:
        """The first answer."""
        if kind == "command":
            assert (await sandbox.commands.run("true")).exit_code == 0
        else:
            assert (await sandbox.run_code("1+1")).text == "2"

    async def kill(self, sandbox: Any) -> None:
        """End it."""
        await sandbox.kill()


class LeanClient(Client):
    """The lean client."""

    def __init__(self, raw: RawClient) -> None:
        self._raw = raw

    async def create(self) -> Any:
        """A new sandbox."""
        return await self._raw.create(_LIFETIME_S)

    async def first(self, sandbox: Any, kind: str) -> None:
        """The first answer."""
        await (self._raw.command(sandbox) if kind == "command" else self._raw.run(sandbox))

    async def kill(self, sandbox: Any) -> None:
        """End it."""
        await self._raw.kill(sandbox)


@contextlib.asynccontextmanager
async def client_of(job: dict[str, Any]) -> AsyncIterator[Client]:
    """The client named in the job."""
    if job["kind"] == "sdk":
        yield SdkClient(job["url"], job["api_key"])
    else:
        async with RawClient(job["url"], job["api_key"], _OPERATION_S) as raw:
            yield LeanClient(raw)


@dataclass
class Seen:
    """The samples of this process."""

    samples: Samples = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    tried: int = 0
    created: float = 0.0
    ended: float = 0.0
    """Time of the last creation and of the last answer."""
    cpu_s: float = 0.0
    """Processor time of this process from its start to the last answer."""

    def note(self, name: str, began: float) -> float:
        """Add a sample that ends now; returns the current time."""
        now = time.monotonic()
        self.samples.setdefault(name, []).append((now - began) * 1000)
        return now


def used_cpu_s() -> float:
    """Processor time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def live_once(client: Client, kind: str, seen: Seen, kept: list[Any] | None = None) -> None:
    """Create and get the first answer, then kill or keep the sandbox. Counts every error."""
    seen.tried += 1
    sandbox = None
    try:
        async with asyncio.timeout(_OPERATION_S):
            began = time.monotonic()
            sandbox = await client.create()
            if kept is not None:
                kept.append(sandbox)
            seen.created = seen.note("create", began)
            await client.first(sandbox, kind)
            seen.ended = now = seen.note("total", began)
            if kept is None:
                await client.kill(sandbox)
                seen.ended = seen.note("kill", now)
                seen.note("life", began)
    except Exception as error:  # noqa: BLE001 - a load generator counts every failure and continues
        seen.errors.append(f"{type(error).__name__}: {error}"[:300])
        if kept is None and sandbox is not None:
            with contextlib.suppress(Exception):
                await client.kill(sandbox)


async def at_offsets(client: Client, job: dict[str, Any], begin: float, seen: Seen) -> None:
    """Create one sandbox at each offset from the start, keep all alive, then kill them."""
    kept: list[Any] = []

    async def one(offset: float) -> None:
        await asyncio.sleep(max(0.0, begin + offset - time.monotonic()))
        await live_once(client, job["first"], seen, kept)

    await asyncio.gather(*(one(offset) for offset in job["offsets"]))
    seen.cpu_s += used_cpu_s()
    print("answered", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(client.kill(sandbox) for sandbox in kept), return_exceptions=True)


async def in_loops(client: Client, job: dict[str, Any], begin: float, seen: Seen) -> None:
    """Each worker runs whole lives one after the other, until the time is over."""
    await asyncio.sleep(max(0.0, begin - time.monotonic()))

    async def worker() -> None:
        while time.monotonic() < begin + job["duration_s"]:
            await live_once(client, job["first"], seen)

    await asyncio.gather(*(worker() for _ in range(job["workers"])))
    seen.cpu_s += used_cpu_s()


async def work(job: dict[str, Any]) -> Seen:
    """Do the job."""
    seen = Seen()
    async with client_of(job) as client:
        print("ready", flush=True)
        begin = float((await asyncio.to_thread(sys.stdin.readline)).split()[1])
        seen.cpu_s -= used_cpu_s()
        await (at_offsets if job["offsets"] is not None else in_loops)(client, job, begin, seen)
    return seen


def main() -> None:
    """Read the job, do it, print."""
    job = json.loads(sys.stdin.readline())
    print(json.dumps(asdict(asyncio.run(work(job)))), flush=True)


if __name__ == "__main__":
    main()
