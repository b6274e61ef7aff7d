"""Calls to the agent of one sandbox, through the server's ingress: processes, files and runs of code.

The agent may be the sandbox's own work, so each message has a bound and is only data, and no redirect is followed: it would lead the client
to addresses that only its machine can reach. Messages are those of ``cloister.protocol``, in binary protobuf.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp

from cloister.errors import CloisterError, InternalError, InvalidRequestError, NotFoundError, UnavailableError
from cloister.model.text import printable
from cloister.protocol.agent import AGENT_PORT, INTERPRETER_PORT
from cloister.protocol.connect import Code, ConnectError, Envelope, EnvelopeParser, encode_envelope
from cloister.protocol.filesystem import SERVICE, EntryInfo, EntryResponse, PathRequest
from cloister.protocol.message import MessageError
from cloister.protocol.message_binary import from_binary, to_binary
from cloister.protocol.process import (
    CloseStdinRequest,
    Empty,
    EventResponse,
    ProcessConfig,
    ProcessEvent,
    ProcessInput,
    ProcessSelector,
    SendInputRequest,
    SendSignalRequest,
    Signal,
    StartRequest,
    Terminal,
    TerminalSize,
    UpdateRequest,
)

__all__ = ["Process", "Program", "SandboxClient"]

_Answer = TypeVar("_Answer")
_MAX_MESSAGE_BYTES = 32 << 20
_MAX_LINE_BYTES = 256 << 20
_KEEPALIVE_S = 20
_SILENCE_S = 120.0
"""The agent sends a keep-alive every ``_KEEPALIVE_S``; after this long without a byte the connection counts as dead."""
_CALL_S = 120.0
_MAX_FAULT = 2000
_PROCESS = "/process.Process/"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run. ``user`` and ``cwd`` None: those of the sandbox. ``size``: on a terminal of that size, else with pipes."""

    argv: tuple[str, ...]
    user: str | None = None
    cwd: str | None = None
    envs: Mapping[str, str] = field(default_factory=dict)
    has_input: bool = False
    size: TerminalSize | None = None


class Process:
    """A process that was started; ``events`` has its output and end."""

    def __init__(self, sandbox: SandboxClient, program: Program, pid: int, events: AsyncIterator[ProcessEvent]) -> None:
        self.pid = pid
        self.events = events
        self._sandbox = sandbox
        self._user = program.user
        self._is_terminal = program.size is not None
        self._selector = ProcessSelector(pid=pid)

    async def send(self, data: bytes) -> bool:
        """Write input; returns when the process has room for it. False: it takes no input any more."""
        given = ProcessInput(pty=data) if self._is_terminal else ProcessInput(stdin=data)
        return await self._tell("SendInput", SendInputRequest(process=self._selector, input=given))

    async def close_input(self) -> None:
        """End the input."""
        await self._tell("CloseStdin", CloseStdinRequest(process=self._selector))

    async def resize(self, size: TerminalSize) -> None:
        """Change the size of its terminal."""
        await self._tell("Update", UpdateRequest(process=self._selector, pty=Terminal(size=size)))

    async def terminate(self) -> None:
        """Send SIGTERM to it and its descendants."""
        await self._tell("SendSignal", SendSignalRequest(process=self._selector, signal=Signal.SIGNAL_SIGTERM))

    async def _tell(self, method: str, request: object) -> bool:
        try:
            await self._sandbox.call(_PROCESS + method, request, Empty, self._user)
        except (NotFoundError, ConnectError, aiohttp.ClientError):  # it has ended, closed its input, or its stream of events says why
            return False
        return True


class SandboxClient:
    """One sandbox."""

    def __init__(self, session: aiohttp.ClientSession, url: str, sandbox_id: str, token: str | None) -> None:
        self.sandbox_id = sandbox_id
        self._session = session
        self._url = url
        self._token = token

    @contextlib.asynccontextmanager
    async def start(self, program: Program) -> AsyncIterator[Process]:
        """Start a program for the block.

        Raises: InvalidRequestError: it cannot be started.
        """
        config = ProcessConfig(cmd=program.argv[0], args=program.argv[1:], envs=dict(program.envs), cwd=program.cwd)
        terminal = None if program.size is None else Terminal(size=program.size)
        request = StartRequest(process=config, pty=terminal, stdin=program.has_input)
        async with contextlib.aclosing(self._events(request, program.user)) as events:
            async for event in events:
                if event.start is not None:
                    yield Process(self, program, event.start.pid, events)
                    return
        raise InternalError("the agent did not say that the process started")

    async def _events(self, request: StartRequest, user: str | None) -> AsyncGenerator[ProcessEvent]:
        headers = {
            **self._headers(AGENT_PORT, user),
            "Content-Type": "application/connect+proto",
            "Connect-Protocol-Version": "1",
            "Keepalive-Ping-Interval": str(_KEEPALIVE_S),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE_S)
        body = encode_envelope(to_binary(request))
        async with self._post(f"{_PROCESS}Start", data=body, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise _fault(await _body(response), response.status)
            parser = EnvelopeParser(_MAX_MESSAGE_BYTES)
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async for chunk in response.content.iter_any():
                    for envelope in parser.feed(chunk):
                        if envelope.is_end:
                            _check_end(envelope)
                            return
                        event = _read(EventResponse, envelope.data).event
                        if event is not None:
                            yield event
        raise UnavailableError("the connection to the sandbox was cut off")

    async def call(self, path: str, request: object, answer: type[_Answer], user: str | None = None) -> _Answer:
        """Make one call to the agent. Raises: NotFoundError, InvalidRequestError and ConnectError as the agent answers."""
        headers = {**self._headers(AGENT_PORT, user), "Content-Type": "application/proto"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_CALL_S if "Input" not in path else None)
        async with self._post(path, data=to_binary(request), headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise _fault(await _body(response), response.status)
            return _read(answer, await _body(response))

    async def stat(self, path: str, user: str | None) -> EntryInfo | None:
        """The file or directory at ``path``, links followed; None if there is none."""
        try:
            return (await self.call(f"{SERVICE}Stat", PathRequest(path), EntryResponse, user)).entry
        except NotFoundError:
            return None

    async def write(self, path: str, data: bytes, user: str | None) -> None:
        """Write a file, with the directories above it."""
        query = {"path": path, **({} if user is None else {"username": user})}
        headers = {**self._headers(AGENT_PORT, None), "Content-Type": "application/octet-stream"}
        async with self._post(f"/files?{urlencode(query)}", data=data, headers=headers) as response:
            if response.status != 200:
                raise _fault(await _body(response), response.status)

    async def make_directory(self, path: str) -> None:
        """Make a directory of the sandbox's user. Raises: ConnectError: it exists."""
        await self.call(f"{SERVICE}MakeDir", PathRequest(path), EntryResponse)

    async def create_context(self, language: str, cwd: str) -> str:
        """Start a kernel of that language in that directory; the id of its context. Raises: InvalidRequestError, NotFoundError."""
        headers = self._headers(INTERPRETER_PORT, None)
        body = {"language": language, "cwd": cwd}
        async with self._post("/contexts", json=body, headers=headers) as response:
            if response.status != 200:
                raise _fault(await _body(response), response.status)
            return str(_object(await _body(response)).get("id"))

    async def execute(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Run code in a kernel: each event (``protocol/execution.py``). The last is ``end_of_execution``, unless it was cut off."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        headers = self._headers(INTERPRETER_PORT, None)
        line = b""
        async with self._post("/execute", json=body, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise _fault(await _body(response), response.status)
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async for chunk in response.content.iter_any():
                    *lines, line = (line + chunk).split(b"\n")
                    if len(line) > _MAX_LINE_BYTES:
                        raise InternalError("an event of the sandbox is too long")
                    for text in filter(bytes.strip, lines):
                        yield _object(text)

    def _post(self, path: str, **options: Any) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.post(self._url + path, allow_redirects=False, **options)

    def _headers(self, port: int, user: str | None) -> dict[str, str]:
        headers = {"E2b-Sandbox-Id": self.sandbox_id, "E2b-Sandbox-Port": str(port)}
        if self._token is not None:
            headers["X-Access-Token"] = self._token
        if user is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        return headers


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises: InternalError: it is longer than a message may be."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_MESSAGE_BYTES:
            raise InternalError("an answer of the sandbox is too long")
    return bytes(body)


def _read(kind: type[_Answer], data: bytes) -> _Answer:
    try:
        return from_binary(kind, data)
    except MessageError as error:
        raise InternalError(f"the sandbox's agent answered with a broken message: {error}") from error


def _check_end(envelope: Envelope) -> None:
    """Raises: the error that the end of a stream has."""
    found = _object(envelope.data).get("error")
    if isinstance(found, dict):
        raise _of_code(str(found.get("code")), str(found.get("message")))


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise InternalError("the sandbox's agent answered with broken JSON") from error
    if not isinstance(found, dict):
        raise InternalError("the sandbox's agent answered with JSON of another form")
    return found


def _fault(body: bytes, status: int) -> CloisterError:
    """The error of a call: the agent's JSON has a code of the protocol, the ingress's a number."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
        return _of_code(str(found["code"]), str(found["message"]))
    except (ValueError, KeyError, TypeError):
        return UnavailableError(printable(text.strip()[:_MAX_FAULT]) or f"the sandbox does not answer (HTTP status {status})")


def _of_code(code: str, text: str) -> CloisterError:
    message = printable(text[:_MAX_FAULT])
    if code in (Code.NOT_FOUND, "404"):
        return NotFoundError(message)
    if code in (Code.INVALID_ARGUMENT, "400"):
        return InvalidRequestError(message)
    return ConnectError(Code(code), message) if code in set(Code) else UnavailableError(message)
