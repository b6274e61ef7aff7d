"""Runs programs in a sandbox through its agent: the process service that clients use, over a socket in the sandbox's network.

Blocking. The agent's answers are not trusted: every message has a bound, and its content is used as text only.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cloister.agentclient.post import post
from cloister.errors import AgentUnreachableError, CloisterError
from cloister.protocol.connect import EnvelopeParser, encode_envelope
from cloister.protocol.dialled import Dialled
from cloister.protocol.message import MessageError
from cloister.protocol.message_json import from_json, to_json
from cloister.protocol.process import (
    CloseStdinRequest,
    EndEvent,
    EventResponse,
    ProcessConfig,
    ProcessEvent,
    ProcessInput,
    ProcessSelector,
    SendInputRequest,
    StartRequest,
)

__all__ = ["AgentCalls", "Ended", "Program", "RefusedError"]

_MAX_MESSAGE_BYTES = 32 << 20
_INPUT_BYTES = 1 << 20
_READ_BYTES = 64 << 10
_INPUT_TIMEOUT_S = 300.0
_KEEPALIVE_S = 20
_SILENCE_S = 120.0
"""The agent sends a keep-alive every ``_KEEPALIVE_S``; after this long without a byte it counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run, as whom. ``cwd`` None: the user's home. ``input`` None: it reads nothing."""

    argv: tuple[str, ...]
    user: str
    cwd: str | None = None
    envs: dict[str, str] = field(default_factory=dict)
    input: bytes | None = None
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class Ended:
    """How a program ended: exit status (128 + number for a signal), and the agent's text, such as ``exit status 3``."""

    code: int
    status: str


class RefusedError(CloisterError):
    """The agent refused a call or aborted it: a code of the Connect protocol and a message."""

    code = "agent_refused"

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class AgentCalls:
    """Calls to one agent. ``dial`` gives a new way to it."""

    def __init__(self, dial: Callable[[], Dialled], access_token: str) -> None:
        self._dial = dial
        self._access_token = access_token

    def run(self, program: Program, on_output: Callable[[str, bytes], None]) -> Ended:
        """Run a program to its end; ``on_output`` gets ("stdout" or "stderr", bytes).

        Raises: RefusedError, AgentUnreachableError.
        """
        config = ProcessConfig(cmd=program.argv[0], args=program.argv[1:], envs=program.envs, cwd=program.cwd)
        start = StartRequest(process=config, stdin=program.input is not None)
        headers = {
            "Content-Type": "application/connect+json",
            "Authorization": _basic(program.user),
            "Connect-Timeout-Ms": str(int(program.timeout_s * 1000)),
            "Keepalive-Ping-Interval": str(_KEEPALIVE_S),
        }
        with self._post("/process.Process/Start", encode_envelope(to_json(start)), headers, _SILENCE_S) as response:
            for event in _events(response):
                if event.data is not None:
                    if event.data.stdout:
                        on_output("stdout", event.data.stdout)
                    if event.data.stderr:
                        on_output("stderr", event.data.stderr)
                elif event.start is not None and program.input is not None:
                    self._give_input(event.start.pid, program.input)
                elif event.end is not None:
                    return _ended(event.end)
        raise AgentUnreachableError("the agent's answer ended early")

    def _give_input(self, pid: int, data: bytes) -> None:
        process = ProcessSelector(pid=pid)
        for at in range(0, len(data), _INPUT_BYTES):
            piece = ProcessInput(stdin=data[at : at + _INPUT_BYTES])
            self._unary("SendInput", to_json(SendInputRequest(process=process, input=piece)))
        self._unary("CloseStdin", to_json(CloseStdinRequest(process=process)))

    def _unary(self, method: str, body: bytes) -> None:
        with self._post(f"/process.Process/{method}", body, {"Content-Type": "application/json"}, _INPUT_TIMEOUT_S) as response:
            response.read(_READ_BYTES)

    @contextlib.contextmanager
    def _post(self, path: str, body: bytes, headers: dict[str, str], timeout_s: float) -> Iterator[http.client.HTTPResponse]:
        """The answer, whose status is 200. Raises: RefusedError, AgentUnreachableError, also for a failed read in the block."""
        try:
            dialled = self._dial()
        except OSError as error:
            raise AgentUnreachableError(f"the sandbox's agent cannot be called: {error}") from error
        with post(dialled, path, body, {**headers, "X-Access-Token": self._access_token}, timeout_s) as response:
            if response.status != http.client.OK:
                raise _refusal(response.read(_READ_BYTES))
            yield response


def _events(response: http.client.HTTPResponse) -> Iterator[ProcessEvent]:
    parser = EnvelopeParser(_MAX_MESSAGE_BYTES)
    while data := response.read1(_READ_BYTES):
        for envelope in parser.feed(data):
            if envelope.is_end:
                _check_end(envelope.data)
                return
            try:
                event = from_json(EventResponse, envelope.data).event
            except MessageError as error:
                raise AgentUnreachableError(f"the agent's answer cannot be read: {error}") from error
            if event is not None:
                yield event


def _check_end(data: bytes) -> None:
    """Raises: RefusedError, when the end of a stream carries an error."""
    if b'"error"' in data:
        raise _refusal(data, within="error")


def _refusal(data: bytes, within: str | None = None) -> RefusedError:
    try:
        found = json.loads(data)
        found = found[within] if within else found
        return RefusedError(str(found["code"]), str(found["message"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return RefusedError("unknown", data[:500].decode(errors="replace"))


def _ended(end: EndEvent) -> Ended:
    words = end.error or end.status
    if end.exited:
        return Ended(end.exit_code, words or f"exit status {end.exit_code}")
    name = end.status.removeprefix("signal: ").casefold()
    number = next((number for number in signal.valid_signals() if (signal.strsignal(number) or "").casefold() == name), 0)
    return Ended(128 + number, words)


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:".encode()).decode()
