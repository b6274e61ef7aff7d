"""The methods of ``process.Process``: requests become calls on the table, output becomes events. It makes no rules about processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cached_property

from cloister.agent.accounts import find_account
from cloister.agent.events import EventLog
from cloister.agent.process.environment import login_environment, process_environment, working_directory
from cloister.agent.process.launch import Launch
from cloister.agent.process.output import PTY, STDERR, STDOUT, Chunk, Reader
from cloister.agent.process.process import OutOfMemory, Process
from cloister.agent.process.table import ProcessTable
from cloister.agent.rpc import Call, RpcRouter, Stream
from cloister.agent.state import AgentState
from cloister.errors import DeadlineError, InvalidRequestError, LimitError, NotFoundError
from cloister.protocol.process import (
    CloseStdinRequest,
    ConnectRequest,
    DataEvent,
    Empty,
    EventResponse,
    ListResponse,
    ProcessConfig,
    ProcessEvent,
    ProcessInput,
    ProcessSelector,
    SendInputRequest,
    SendSignalRequest,
    Signal,
    StartEvent,
    StartRequest,
    StreamInputRequest,
    Terminal,
    UpdateRequest,
)

__all__ = ["ProcessService"]

_SERVICE = "/process.Process/"
_KEEPALIVE = EventResponse(event=ProcessEvent(keepalive=Empty()))
_DEFAULT_SIZE = (80, 24)
_TERM = "xterm-256color"
_SHELL = "/bin/bash"
_DONE = Empty()
_OUTPUT_FIELDS = {STDOUT: "stdout", STDERR: "stderr", PTY: "pty"}


class ProcessService:
    """The service, for one sandbox."""

    def __init__(self, state: AgentState, events: EventLog, oom_kills: Callable[[], int | None]) -> None:
        self._state = state
        self._events = events
        self._oom_kills = oom_kills
        self._following: set[asyncio.Task[object]] = set()
        """The calls that send the output of a process."""

    @cached_property
    def _table(self) -> ProcessTable:
        limits = self._state.document.limits
        return ProcessTable(self._events, limits.output_mib << 20, OutOfMemory(self._oom_kills, limits.mem_mib))

    def register(self, rpc: RpcRouter) -> None:
        """Add the methods to ``rpc``."""
        rpc.server_stream(f"{_SERVICE}Start", StartRequest, self._start, keepalive=_KEEPALIVE, has_deadline=False)
        rpc.server_stream(f"{_SERVICE}Connect", ConnectRequest, self._connect, keepalive=_KEEPALIVE)
        rpc.client_stream(f"{_SERVICE}StreamInput", StreamInputRequest, self._stream_input)
        rpc.unary(f"{_SERVICE}List", Empty, self._list)
        rpc.unary(f"{_SERVICE}Update", UpdateRequest, self._update)
        rpc.unary(f"{_SERVICE}SendInput", SendInputRequest, self._send_input)
        rpc.unary(f"{_SERVICE}SendSignal", SendSignalRequest, self._send_signal)
        rpc.unary(f"{_SERVICE}CloseStdin", CloseStdinRequest, self._close_stdin)

    async def release_readers(self, why: str, within_s: float) -> None:
        """End the streams that follow processes, with an error that says why; the processes go on.

        Returns when the last frame of each is written, or after ``within_s``: a client may take nothing.
        """
        following = set(self._following)
        self._table.release_readers(why)
        if following:
            await asyncio.wait(following, timeout=within_s)

    def start_shell(self, text: str, envs: Mapping[str, str], *, listed: bool) -> Process:
        """Run a command of the template itself: as the default user in the work directory, with ``envs``, not the sandbox's variables.

        Clients see a ``listed`` one like any other process.

        Raises: AuthenticationError (there is no default user), InvalidRequestError, LimitError.
        """
        document = self._state.document
        account = find_account(document.user)
        config = ProcessConfig(cmd=_SHELL, args=("-l", "-c", text))
        env = process_environment(document, envs, account, {})
        what = Launch(
            argv=(config.cmd, *config.args),
            env=login_environment(env, envs, {}, config.args),
            cwd=working_directory(None, document, account),
            account=account,
        )
        return self._table.start(what, config, None).process if listed else self._table.start_unlisted(what)

    async def _start(self, request: StartRequest, call: Call, stream: Stream[EventResponse]) -> None:
        """Apply the client's time limit to the process: at its end it is killed, also if the client has disconnected."""
        config = request.process
        if config is None or not config.cmd:
            raise InvalidRequestError("the request has no command")
        entry = self._table.start(self._launch(request, config, call), config, request.tag)
        if call.timeout_s is not None:
            entry.process.kill_after(call.timeout_s)
        await self._follow(entry.process, stream)
        if entry.process.is_expired:
            raise DeadlineError(f"the process was killed: it did not end within the {call.timeout_s:g} s that the client gave it")
        await _send_end(entry.process, stream)

    def _launch(self, request: StartRequest, config: ProcessConfig, call: Call) -> Launch:
        document = self._state.document
        account = find_account(call.user or document.user)
        env = process_environment(document, self._state.envs, account, config.envs)
        size = None if request.pty is None else _size_of(request.pty)
        if size is not None:
            env.setdefault("TERM", _TERM)
        return Launch(
            argv=(config.cmd, *config.args),
            env=login_environment(env, self._state.envs, config.envs, config.args),
            cwd=working_directory(config.cwd, document, account),
            account=account,
            stdin=request.stdin is not False,
            size=size,
        )

    async def _connect(self, request: ConnectRequest, _call: Call, stream: Stream[EventResponse]) -> None:
        process = self._table.find(request.process).process
        await self._follow(process, stream)
        await _send_end(process, stream)

    async def _follow(self, process: Process, stream: Stream[EventResponse]) -> None:
        """Send the start, and all output until the process ends."""
        call = asyncio.current_task()
        assert call is not None, "a coroutine runs in a task"
        self._following.add(call)
        call.add_done_callback(self._following.discard)
        reader = process.log.attach()
        try:
            async with asyncio.timeout(None) as scope:
                loop = asyncio.get_running_loop()
                reader.on_cut = lambda: scope.reschedule(loop.time())
                await _send_output(process, reader, stream)
        except TimeoutError:
            if not scope.expired():
                raise
            raise LimitError(
                f"the output of process {process.pid} was read too slowly: {self._state.document.limits.output_mib} MiB of it were "
                "waiting, and nothing was taken for half a minute; it runs on, connect again to follow it"
            ) from None
        finally:
            reader.close()

    async def _list(self, _request: Empty, _call: Call) -> ListResponse:
        return ListResponse(processes=self._table.list())

    async def _update(self, request: UpdateRequest, _call: Call) -> Empty:
        entry = self._table.find_running(request.process)
        if request.pty is not None:
            entry.process.resize(_size_of(request.pty))
        return _DONE

    async def _send_input(self, request: SendInputRequest, _call: Call) -> Empty:
        await self._write(request.process, request.input)
        return _DONE

    async def _stream_input(self, requests: AsyncIterator[StreamInputRequest], _call: Call) -> Empty:
        process: ProcessSelector | None = None
        async for request in requests:
            if request.start is not None:
                process = request.start.process
                self._table.find_running(process)
            elif request.data is not None:
                if process is None:
                    raise InvalidRequestError("the stream must begin with 'start'")
                await self._write(process, request.data.input)
        return _DONE

    async def _write(self, selector: ProcessSelector | None, given: ProcessInput | None) -> None:
        process = self._table.find_running(selector).process
        if given is None or (given.stdin is None and given.pty is None):
            raise InvalidRequestError("the request has no input: 'input' needs 'stdin' or 'pty'")
        if given.pty is not None:
            await process.write(given.pty, to_terminal=True)
        else:
            await process.write(given.stdin or b"", to_terminal=False)

    async def _send_signal(self, request: SendSignalRequest, _call: Call) -> Empty:
        if request.signal not in (Signal.SIGNAL_SIGTERM, Signal.SIGNAL_SIGKILL):
            raise InvalidRequestError("the signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL")
        entry = self._table.find(request.process)
        if not entry.process.signal(request.signal):
            raise NotFoundError(f"process with pid {entry.process.pid} has ended")
        return _DONE

    async def _close_stdin(self, request: CloseStdinRequest, _call: Call) -> Empty:
        await self._table.find_running(request.process).process.close_stdin()
        return _DONE


async def _send_output(process: Process, reader: Reader, stream: Stream[EventResponse]) -> None:
    start = StartEvent(pid=process.pid, missed_bytes=reader.missed_bytes)
    await stream.send(EventResponse(event=ProcessEvent(start=start)))
    if reader.missed_bytes:
        text = f"[{reader.missed_bytes} bytes of output were dropped here, as no client was connected]\n".encode()
        await stream.send(_data_event((PTY, text.replace(b"\n", b"\r\n")) if process.is_terminal else (STDERR, text)))
    while chunks := await reader.next():
        await stream.send(*(_data_event(chunk) for chunk in chunks))


async def _send_end(process: Process, stream: Stream[EventResponse]) -> None:
    await stream.send(EventResponse(event=ProcessEvent(end=process.result)))


def _data_event(chunk: Chunk) -> EventResponse:
    kind, data = chunk
    return EventResponse(event=ProcessEvent(data=DataEvent(**{_OUTPUT_FIELDS[kind]: data})))


def _size_of(terminal: Terminal) -> tuple[int, int]:
    """(columns, rows); absent values are those of a plain terminal."""
    if terminal.size is None:
        return _DEFAULT_SIZE
    return terminal.size.cols or _DEFAULT_SIZE[0], terminal.size.rows or _DEFAULT_SIZE[1]
