"""The egress process, from the supervisor's side: starts it on first need, keeps it alive, and repeats the policies to a new one.

Owns the process, the link to it and the list of wanted policies. Invariant I4: a policy counts as followed only when the process has
acknowledged it. A process that does not answer in time is killed; while there is none, redirected connections are refused. It gets no
message before it is in its control group.
Runs in: supervisor. Any thread may call; one thread of its own starts the process, which the kernel ends with that thread.
Needs: root, because the child changes its network namespace and user.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import structlog

import cloister
from cloister.egresswire.link import (
    MAX_OUTCOME_BYTES,
    Begin,
    Done,
    Forget,
    LookUps,
    Put,
    Records,
    Serve,
    parse_outcome,
    render_begin,
    render_forget,
    render_put,
    render_serve,
)
from cloister.errors import InvalidRequestError, IsolationError, UnavailableError
from cloister.model.connection import ConnectionRecord, LookUp
from cloister.model.network import EgressPolicy
from cloister.model.secret import Secret
from cloister.node.egress_group import EgressGroup

__all__ = ["EgressConfig", "EgressProcess"]

_log = structlog.get_logger("cloister.egress")
_PROGRAM = "cloister.processes.egress"
_PACKAGES = str(Path(cloister.__file__).parents[1])
"""The process runs the same code as its supervisor."""
_ANSWER_S = 10.0
"""Within this time the process acknowledges a message, its start included."""
_CALM_S = 10.0
_MAX_PAUSE_S = 5.0
_KNOWN_IDS = 20_000
_MOST_RECORDS = 20_000
"""Records that wait to be taken."""


@dataclass(frozen=True)
class EgressConfig:
    """What the process needs."""

    netns: Path
    """The router's network namespace."""
    gateway: IPv4Address
    private: tuple[IPv4Network, ...]
    """Private networks that the operator lets sandboxes reach."""
    uid: int
    values: Path
    """The api process's socket for values of headers."""
    secret: Callable[[], Secret]
    """Gives the secret of the sandboxes' certificate authorities, the same at each start."""
    group: EgressGroup
    certificates: Callable[[], str] = str
    """Gives the certificates (PEM) of the authorities that may certify upstreams."""
    inspects: bool = False
    """See :class:`~cloister.egresswire.link.Begin`."""
    log_level: str = "info"
    log_format: str = "json"


@dataclass(eq=False)
class _Wanted:
    """A policy, and whether the process follows it."""

    address: str
    sandbox_id: str
    policy: EgressPolicy
    is_followed: bool = False


class EgressProcess:
    """An :class:`~cloister.network.gate.EgressGate`."""

    def __init__(self, config: EgressConfig) -> None:
        self._config = config
        self._state = threading.Condition()
        """Guards all below. Lock order: ``_sending``, then this."""
        self._sending = threading.Lock()
        """Held while a message is sent, so that messages have the order of their numbers."""
        self._wanted: dict[int, _Wanted] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._number = 0
        self._waiting: dict[int, list[_Wanted]] = {}
        """The messages that the present process has not acknowledged, and the policies that it follows once it has."""
        self._records: list[ConnectionRecord] = []
        self._lost = 0
        self._look_ups: list[LookUp] = []
        self._is_closed = False

    def take_records(self) -> tuple[Sequence[ConnectionRecord], int]:
        """The connections that the process told of since the last call, and how many more got lost. Call it often: it keeps 20,000."""
        with self._state:
            records, lost = self._records, self._lost
            self._records, self._lost = [], 0
        return records, lost

    def take_look_ups(self) -> Sequence[LookUp]:
        """The names that sandboxes looked up since the last call, of those sandboxes that it serves. Call it often: it keeps 20,000."""
        with self._state:
            found, self._look_ups = self._look_ups, []
        return found

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        with self._state:
            return None if self._process is None else self._process.pid

    def admit(self, slot: int, address: str, sandbox_id: str, policy: EgressPolicy) -> None:
        """See :class:`~cloister.network.gate.EgressGate`."""
        wanted = _Wanted(address, sandbox_id, policy)
        with self._state:
            former = self._wanted.get(slot)
            self._wanted[slot] = wanted
            self._note_id(sandbox_id)
            self._start_thread()
        self._send(lambda number: render_put(Put(number, address, sandbox_id, policy)), [wanted])
        if self._wait(lambda: wanted.is_followed):
            return
        with self._state:
            if self._wanted.get(slot) is wanted:
                self._wanted.pop(slot)
                if former is not None:
                    self._wanted[slot] = former
        self._kill("no policy taken in time")
        raise UnavailableError("the egress process does not answer, so no sandbox can follow this network policy")

    def forget(self, slot: int) -> None:
        """See :class:`~cloister.network.gate.EgressGate`."""
        with self._state:
            wanted = self._wanted.pop(slot, None)
        if wanted is None:
            return
        number = self._send(lambda number: render_forget(Forget(number, wanted.address)), [])
        if number is not None and not self._wait(lambda: number not in self._waiting):
            self._kill("no policy forgotten in time")

    def close(self) -> None:
        """End the process; policies need not be forgotten before. Idempotent."""
        with self._state:
            self._is_closed = True
            thread = self._thread
            self._state.notify_all()
        self._kill(None)
        if thread is not None:
            thread.join()

    def _wait(self, is_so: Callable[[], bool]) -> bool:
        with self._state:
            return self._state.wait_for(lambda: is_so() or self._is_closed, _ANSWER_S) and is_so()

    def _send(self, render: Callable[[int], bytes], wanted: list[_Wanted]) -> int | None:
        """Send a message to the present process; None: there is none, and the next one gets all policies."""
        with self._sending:
            with self._state:
                link = self._link
                if link is None:
                    return None
                number = self._expect(wanted)
            try:
                link.sendall(render(number))
            except OSError:  # it has died, or does not read
                self._kill("a message not taken in time")
            return number

    def _expect(self, wanted: list[_Wanted]) -> int:
        self._number += 1
        self._waiting[self._number] = wanted
        return self._number

    def _note_id(self, sandbox_id: str) -> None:
        self._known[sandbox_id] = None
        self._known.move_to_end(sandbox_id)
        if len(self._known) > _KNOWN_IDS:
            self._known.popitem(last=False)

    def _kill(self, reason: str | None) -> None:
        with self._state:
            if self._process is None:
                return
            self._process.kill()  # it is not reaped yet: the thread sets this to None before
        if reason is not None:
            _log.error("egress.killed", reason=reason)

    def _start_thread(self) -> None:
        if self._is_closed:
            raise UnavailableError("the egress process is stopped")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="egress", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Keep a process alive until :meth:`close`: a new one at once after the first death, then with growing pauses."""
        failures = 0
        while not self._is_closed:
            started = time.monotonic()
            code = self._run_one()
            if self._is_closed:
                return
            failures = 0 if time.monotonic() - started > _CALM_S else failures + 1
            _log.error("egress.died", code=code, failures=failures, memory_ends=self._memory_ends())
            with self._state:
                self._state.wait_for(lambda: self._is_closed, min(_MAX_PAUSE_S, 0.1 * 2**failures) if failures > 1 else 0)

    def _memory_ends(self) -> int | None:
        """How many processes had no memory left; None: there is no group yet."""
        try:
            return self._config.group.memory_ends()
        except OSError:
            return None

    def _run_one(self) -> int | None:
        """Run one process until it ends; its exit code. None: it could not be started."""
        try:
            process, link = self._spawn()
        except OSError as error:
            _log.error("egress.not_started", error=str(error))
            return None
        try:
            with self._state:
                self._process = process
                if self._is_closed:
                    process.kill()
            self._config.group.take(process.pid)
            self._load(link)
            self._read(link)
        except (OSError, InvalidRequestError, IsolationError) as error:
            _log.error("egress.link_failed", error=str(error))
        except Exception:  # noqa: BLE001 - thread border: without this thread there would be no other process
            _log.exception("egress.link_failed")
        finally:
            process.kill()
            with self._state:
                self._process = self._link = None
            process.wait()
            link.close()
            with self._state:
                self._waiting.clear()
                self._state.notify_all()
        return process.returncode

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        config = self._config
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_ANSWER_S), 0))
        netns = os.open(config.netns, os.O_RDONLY | os.O_CLOEXEC)
        words = (config.uid, far.fileno(), netns, os.getpid(), config.log_level, config.log_format)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, *map(str, words)],
                pass_fds=(far.fileno(), netns),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": _PACKAGES},
                cwd="/",
                start_new_session=True,  # signals of a terminal are the launcher's
            )
        except OSError:
            near.close()
            raise
        finally:
            far.close()
            os.close(netns)
        return process, near

    def _load(self, link: socket.socket) -> None:
        """Give a new process all policies, and let it serve."""
        config = self._config
        begin = Begin(config.gateway, config.private, config.secret(), str(config.values), config.certificates(), config.inspects)
        with self._sending:
            with self._state:
                all_wanted = list(self._wanted.values())
                lines = [render_begin(begin)]
                lines += [render_put(Put(self._expect([]), one.address, one.sandbox_id, one.policy)) for one in all_wanted]
                lines.append(render_serve(Serve(self._expect(all_wanted))))
                self._link = link
            link.sendall(b"".join(lines))

    def _read(self, link: socket.socket) -> None:
        """Read what comes until the process ends. Raises: InvalidRequestError, OSError."""
        with link.makefile("rb") as file:
            while line := file.readline(MAX_OUTCOME_BYTES):
                match parse_outcome(line):
                    case Done(number=number):
                        with self._state:
                            for wanted in self._waiting.pop(number, []):
                                wanted.is_followed = True
                            self._state.notify_all()
                    case Records() as found:
                        self._take(found)
                    case LookUps(look_ups=look_ups):
                        with self._state:
                            served = {wanted.address for wanted in self._wanted.values()}
                            known = [one for one in look_ups if one.client in served]
                            self._look_ups += known[: _MOST_RECORDS - len(self._look_ups)]

    def _take(self, found: Records) -> None:
        with self._state:
            for record in found.records:
                if len(self._records) >= _MOST_RECORDS:
                    self._lost += record.count
                elif record.sandbox_id in self._known:
                    self._records.append(record)
            self._lost += found.lost
