"""Opens the connections of sandboxes to the outside: to an address, or to a name that the server resolves; directly or by a proxy.

Invariant I4: a name leads only to public addresses (or those that the operator opened), whatever a resolver says. The kernel refuses
private destinations of this process as it does for sandboxes.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address

from cloister.egress.connection import Connection, DialError, Upstream
from cloister.egress.reasons import Reason
from cloister.egress.socks import SocksDialer
from cloister.egress.splice import keep_alive
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge
from cloister.model.network import EgressProxy
from cloister.network.limits import FairBound

__all__ = ["RACES", "Dialer", "Resolve", "connect"]

Resolve = Callable[[str, str], Awaitable[Sequence[IPv4Address]]]
"""The addresses of a name, for the sandbox at a source address. Raises: DialError."""
TIMEOUT_S = 30.0
_NEXT_AFTER_S = 0.25
"""How long one address may take before the next is tried beside it (RFC 8305)."""
_MAX_ADDRESSES = 8
RACES_PER_SANDBOX, RACES = 64, 1024
"""Connections that are tried beside another one for the same: of one sandbox, and of all. Beyond, addresses are tried one by one."""


class Dialer:
    """Opens upstream connections as the verdict about a connection says."""

    def __init__(self, resolve: Resolve, proxies: SocksDialer) -> None:
        self._resolve = resolve
        self._proxies = proxies
        self._races = FairBound(RACES_PER_SANDBOX, RACES)

    async def open(self, connection: Connection) -> Upstream:
        """Open it. Raises: DialError."""
        verdict, judge = connection.verdict, connection.judge()
        if verdict is None or not verdict.is_allowed:
            raise DialError("not_allowed")
        address, port = connection.original
        name = connection.name if verdict.is_by_name or connection.rule is not None else None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if judge.policy.proxy is None:
                    addresses = [IPv4Address(address)] if name is None else await self._allowed(connection, name, judge)
                    return await connect(addresses, port, connection, self._races)
                if name is not None and not (verdict.is_by_name or judge.allows_all_public):
                    address, name = str((await self._allowed(connection, name, judge))[0]), None
                    return await self._open_by_proxy(judge.policy.proxy, address, connection, address)
                return await self._open_by_proxy(judge.policy.proxy, name or address, connection)
        except TimeoutError:
            raise DialError("timed_out") from None

    async def _allowed(self, connection: Connection, name: str, judge: Judge) -> Sequence[IPv4Address]:
        """The addresses of ``name`` that the policy allows. A header rule is not enough for one that it denies. Raises: DialError."""
        port = connection.original[1]
        found = await self._resolve(connection.source, name)
        allowed = [address for address in found if judge.judge(address, port, name).is_allowed]
        if not allowed:
            raise DialError("address_not_allowed")
        return allowed

    async def _open_by_proxy(self, proxy: EgressProxy, host: str, connection: Connection, address: str = "") -> Upstream:
        stream = await self._proxies.open(proxy, host, connection.original[1], partial(self._reach, connection))
        return Upstream(stream, address)

    async def _reach(self, connection: Connection, host: str, port: int) -> ByteStream:
        """A connection to a proxy. Raises: DialError."""
        try:
            addresses: Sequence[IPv4Address] = [IPv4Address(host)]
        except ValueError:
            addresses = await self._resolve(connection.source, host)
        return (await connect(addresses, port, connection, self._races)).stream


async def connect(addresses: Sequence[IPv4Address], port: int, connection: Connection, races: FairBound) -> Upstream:
    """A connection to the first of ``addresses`` that answers; each gets a head start of ``_NEXT_AFTER_S``. Raises: DialError.

    ``races`` bounds those that are tried beside another. None is begun once ``connection``, for which it is, has been cut.
    """
    failures: list[OSError] = []
    tasks: set[asyncio.Task[Upstream]] = set()
    waiting = list(addresses[:_MAX_ADDRESSES])

    def begin() -> bool:
        use = races.take(connection.source, lambda: task.cancel()) if tasks else None  # noqa: PLW0108 - it is made below
        if tasks and use is None:
            return False
        task = asyncio.create_task(_connect_one(str(waiting.pop(0)), port, connection))
        if use is not None:
            task.add_done_callback(lambda _: races.give_back(connection.source, use))
        tasks.add(task)
        return True

    try:
        while waiting or tasks:
            has_begun = bool(waiting) and begin()
            timeout_s = _NEXT_AFTER_S if has_begun and waiting else None
            done, tasks = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.cancelled():
                    failures.append(ConnectionAbortedError())
                elif (error := task.exception()) is None:
                    _give_up(done - {task})
                    return task.result()
                elif isinstance(error, OSError):
                    failures.append(error)
                else:
                    raise error
    finally:
        _give_up(tasks)
    raise DialError(_reason(failures))


def _give_up(tasks: set[asyncio.Task[Upstream]]) -> None:
    """Cancel what is under way, and close what was opened beside the chosen one."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_discard)


def _discard(task: asyncio.Task[Upstream]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().stream.abort()


async def _connect_one(address: str, port: int, connection: Connection) -> Upstream:
    if connection.is_cut:  # this task may have been due before the one that waits for it hears of the cut
        raise ConnectionAbortedError
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return Upstream(ByteStream(sock), address)


def _reason(failures: list[OSError]) -> Reason:
    """A word for the record."""
    numbers = {error.errno for error in failures}
    if errno.ECONNREFUSED in numbers:
        return "connection_refused"
    return "unreachable" if failures else "name_not_found"
