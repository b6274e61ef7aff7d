"""How api processes work together that share a PostgreSQL database: a :class:`~cloister.store.sharing.Sharing`.

Owns one connection beside the store's. It listens to what the triggers of ``sharing.sql`` tell, which PostgreSQL delivers in the order
of the commits. It also holds two advisory locks: one by the number of the process, which shows that it lives, and one by the leader.
PostgreSQL frees both when the connection ends, whatever ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psycopg
import structlog

from cloister.errors import CloisterError, StoreUnreachableError
from cloister.store.connection import Connection, Runner
from cloister.store.sharing import SharingListener

__all__ = ["PostgresSharing"]

_log = structlog.get_logger("cloister.store")
_PROCESSES, _LEADER = 0x636C6F01, 0x636C6F02
"""Classes of advisory locks: one for each process, and the one of the leader."""
_TURN_S = 1.0
"""Between two attempts to connect, or to lead."""
_CATCH_UP_S = 3.0
_SANDBOXES, _DELIVERIES, _CAUGHT_UP = "cloister_sandboxes", "cloister_deliveries", "cloister_caught_up"
_KEEP_ALIVE = b"SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
"""So soon the server frees the locks of a machine that is gone."""
_LISTEN = f"LISTEN {_SANDBOXES}; LISTEN {_DELIVERIES}; LISTEN {_CAUGHT_UP}".encode()
_TAKE_RATE = """
    INSERT INTO creation_rates AS r (team_id, tokens, at)
    VALUES (:team_id, greatest(1, :rate) - 1, extract(epoch FROM clock_timestamp()))
    ON CONFLICT (team_id) DO UPDATE SET at = excluded.at,
        tokens = least(r.tokens + greatest(0, excluded.at - r.at) * :rate, greatest(1, :rate)) - 1
    WHERE least(r.tokens + greatest(0, excluded.at - r.at) * :rate, greatest(1, :rate)) >= 1
"""
_OTHERS_CREATIONS = """
    SELECT sandbox_id FROM creations JOIN sandboxes USING (sandbox_id) WHERE state = 'creating' AND process <> :own
    AND process IN (SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = :processes AND granted
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


class PostgresSharing:
    """``run`` runs statements on the store's connections, ``check`` drops those that are broken."""

    def __init__(self, address: str, run: Runner, check: Callable[[], None]) -> None:
        self._address = address
        self._run = run
        self._check = check
        self._number = 0
        self._leads = False
        self._is_listening = False
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._next: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_leader(self) -> bool:
        """See :class:`~cloister.store.sharing.Sharing`; likewise below."""
        return self._leads

    def start(self, listener: SharingListener) -> None:
        """See the protocol."""
        self._task = asyncio.create_task(self._keep_listening(listener))

    async def close(self) -> None:
        """Listen no more, and let another process lead."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def catch_up(self) -> None:
        """See the protocol. Calls at the same time share a question to the database."""
        if not self._is_listening:
            raise StoreUnreachableError("the database does not answer", hint="it is restarting or down; try again")
        if (under_way := self._next) is not None:
            await asyncio.shield(under_way)  # it began before this call, so it is not enough; the next one is
        if self._next is None or self._next is under_way:
            self._next = asyncio.create_task(self._ask())
            self._next.add_done_callback(self._forget)
        await asyncio.shield(self._next)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # its callers have it
        if self._next is task:
            self._next = None

    async def _ask(self) -> None:
        token = uuid.uuid4().hex
        heard = self._waiting[token] = asyncio.get_running_loop().create_future()
        sql = f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {_CAUGHT_UP}, '{token}'; COMMIT"
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                await self._run(lambda connection: connection.execute(sql))
                await heard
        except TimeoutError as error:
            raise StoreUnreachableError("the database does not tell what changed", hint="try again") from error
        finally:
            self._waiting.pop(token, None)
            if heard.done():
                heard.exception()  # marks it as seen, also when the statement failed before

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """See the protocol."""
        connection = await self._connect()
        try:
            await connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
            yield
        except psycopg.Error as error:
            raise StoreUnreachableError("the database does not answer", hint="try again") from error
        finally:
            await connection.close()

    async def list_creations(self) -> Sequence[str]:
        """See the protocol."""
        values = {"own": self._number, "processes": _PROCESSES}
        return [row["sandbox_id"] for row in await self._run(lambda one: one.execute(_OTHERS_CREATIONS, values).fetchall())]

    def note_creation(self, connection: Connection, sandbox_id: str) -> None:
        """Note that this process makes the sandbox."""
        connection.execute("INSERT INTO creations (sandbox_id, process) VALUES (?, ?)", (sandbox_id, self._number))

    def take_rate(self, connection: Connection, team_id: str, rate: float) -> bool:
        """Take a token from the team's bucket, if there is one."""
        return connection.execute(_TAKE_RATE, {"team_id": team_id, "rate": rate}).rowcount == 1

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        try:
            connection = await psycopg.AsyncConnection.connect(self._address, autocommit=True)
            await connection.execute(_KEEP_ALIVE)
        except psycopg.Error as error:
            raise StoreUnreachableError(f"the database does not answer ({type(error).__name__})", hint="try again") from None
        return connection

    async def _keep_listening(self, listener: SharingListener) -> None:
        is_told = False
        while True:
            try:
                async with await self._connect() as connection:
                    is_told = False
                    await self._listen(connection, listener)
            except (CloisterError, psycopg.Error, OSError) as error:
                if not is_told:
                    _log.warning("database.connection_lost", error=type(error).__name__)
                is_told = True
            finally:
                self._is_listening = self._leads = False
                for future in self._waiting.values():
                    if not future.done():
                        future.set_exception(StoreUnreachableError("the database went away", hint="try again"))
            await asyncio.sleep(_TURN_S)

    async def _listen(self, connection: psycopg.AsyncConnection[Any], listener: SharingListener) -> None:
        await connection.execute(_LISTEN)
        while not (self._number and await _number(connection, f"SELECT pg_try_advisory_lock({_PROCESSES}, {self._number})::int")):
            self._number = await _number(connection, "SELECT nextval('api_processes')")  # the server may not know yet that we were cut off
        await asyncio.to_thread(self._check)
        await listener.connected()
        self._is_listening = True
        listener.due()
        _log.info("database.connected", process=self._number)
        heard: asyncio.Queue[psycopg.Notify] = asyncio.Queue()
        telling = asyncio.create_task(self._tell(heard, listener))
        try:
            while not telling.done():
                if not self._leads and await _number(connection, f"SELECT pg_try_advisory_lock({_LEADER}, 0)::int"):
                    self._leads = True
                    listener.due()
                    _log.info("database.leads", process=self._number)
                async for notify in connection.notifies(timeout=_TURN_S):
                    heard.put_nowait(notify)
                await connection.execute("SELECT 1")  # raises if the server is gone
            await telling
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self, heard: asyncio.Queue[psycopg.Notify], listener: SharingListener) -> None:
        """Tell the listener what comes in, all that is there at a time, in order."""
        while True:
            batch = [await heard.get()]
            while not heard.empty():
                batch.append(heard.get_nowait())
            changes = [notify.payload.partition(" ") for notify in batch if notify.channel == _SANDBOXES]
            if changes:
                await listener.changed({sandbox_id: int(version) for sandbox_id, _, version in changes})
            if any(notify.channel == _DELIVERIES for notify in batch):
                listener.due()
            for notify in batch:
                future = self._waiting.get(notify.payload) if notify.channel == _CAUGHT_UP else None
                if future is not None and not future.done():
                    future.set_result(None)


async def _number(connection: psycopg.AsyncConnection[Any], sql: str) -> int:
    row = await (await connection.execute(sql.encode())).fetchone()
    return 0 if row is None else int(row[0])
