"""The tools: code, commands, files and addresses of a session's sandbox.

A failure that a model can do something about is an answer with ``is_error`` and a text that says what happened, never a protocol error.
When a client cancels a call, the code or command that it ran is stopped.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import httpx
from e2b import AsyncCommandHandle, AsyncSandbox, AuthenticationException, CommandExitException, FileType, ServiceBusyException
from e2b_code_interpreter import NotFoundException, OutputMessage, Result, SandboxException
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import BlobResourceContents, CallToolResult, ContentBlock, EmbeddedResource, ImageContent, TextContent, ToolAnnotations
from pydantic import Field

from cloister_mcp.session import BackgroundCommand, Session
from cloister_mcp.transcript import MAX_TEXT, Transcript

__all__ = ["SessionOf", "add_tools"]

SessionOf = Callable[[Context[Any, Any]], Session]

_MAX_COMMANDS = 32
_MAX_FILE = 5 * 1024 * 1024
_MAX_ENTRIES = 1000
_MAX_PROGRESS = 1 << 20
"""Characters of a call's output that clients are told while it runs; their memory is none of the sandbox's."""
_MAX_RUN = 32 << 20
"""Characters that one run may print and show: the SDK keeps all of them until the run ends."""
_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_FAULTS = (SandboxException, AuthenticationException, ServiceBusyException, httpx.HTTPError, OSError)
_GONE = "The sandbox has ended, and its files, variables and commands with it; the next call gets a new one."

_RENEWED = "[the sandbox of the earlier calls had ended; this is a new one, without their files, variables and commands]"
_Answer = CallToolResult | list[ContentBlock] | str

Seconds = Annotated[float, Field(gt=0, le=3600, description="stop it after so many seconds")]
Path = Annotated[str, Field(description="absolute, or relative to the home directory /home/user")]
Language = Annotated[str, Field(description="python, javascript, typescript, r, java or bash, or another with a Jupyter kernel")]
Depth = Annotated[int, Field(ge=1, le=10, description="levels of directories")]
Encoding = Annotated[Literal["text", "base64"], Field(description="base64 for files that are not text in UTF-8")]


def add_tools(server: MCPServer[Any], session_of: SessionOf) -> None:
    """Register every tool; ``session_of`` finds the session of a call."""
    tools = _Tools(session_of)
    for method, reads_only in (
        (tools.run_code, False),
        (tools.run_command, False),
        (tools.command_output, True),
        (tools.kill_command, False),
        (tools.read_file, True),
        (tools.write_file, False),
        (tools.list_files, True),
        (tools.get_url, True),
        (tools.reset_sandbox, False),
    ):
        annotations = ToolAnnotations(read_only_hint=reads_only)
        server.add_tool(tools.told(method), name=method.__name__, annotations=annotations, structured_output=False)


class _Tools:
    """One method for each tool; its docstring is what the model reads."""

    def __init__(self, session_of: SessionOf) -> None:
        self._session_of = session_of

    def told(self, method: Callable[..., Awaitable[_Answer]]) -> Callable[..., Awaitable[CallToolResult]]:
        """``method`` with the SDK's exceptions as errors that the model reads, and a note when the sandbox is another one than before."""

        @functools.wraps(method)
        async def call(ctx: Context[Any, Any], **arguments: Any) -> CallToolResult:
            session = self._session_of(ctx)
            try:
                answer = await method(ctx, **arguments)
            except _FAULTS as error:
                text = str(error) or type(error).__name__
                raise ToolError(f"{text}\n{_GONE}" if await session.has_ended() else text) from error
            if isinstance(answer, str):
                answer = [_text(answer)]
            result = answer if isinstance(answer, CallToolResult) else _answer(answer)
            if session.take_renewed():
                result.content.insert(0, _text(_RENEWED))
            return result

        return call

    async def run_code(
        self,
        ctx: Context[Any, Any],
        code: str,
        language: Language = "python",
        timeout_s: Seconds = 120,
    ) -> CallToolResult:
        """Run code in a sandboxed interpreter and get what it prints, its last value, and its plots as images.

        Variables, imports and functions of a language are kept between calls. Output comes as progress while the code runs.
        """
        sandbox = await self._session_of(ctx).sandbox(timeout_s)
        transcript, progress = Transcript(), _Progress(ctx)

        async def heard(message: OutputMessage) -> None:
            transcript.write(message.line)
            _check_size(transcript)
            await progress.tell(message.line)

        async def shown(result: Result) -> None:
            transcript.show(result)
            _check_size(transcript)

        try:
            async with asyncio.timeout(timeout_s):
                run = await sandbox.run_code(
                    code,
                    language=language,
                    on_stdout=heard,
                    on_stderr=heard,
                    on_result=shown,
                    on_error=transcript.fail,
                    timeout=0,
                )
        except TimeoutError:
            transcript.note(f"stopped after {timeout_s:g} s; variables are kept")
            return _answer(transcript.content(), is_error=True)
        except _FloodError:
            transcript.note(f"stopped after {_MAX_RUN >> 20} Mi characters of output; variables are kept")
            return _answer(transcript.content(), is_error=True)
        return _answer(transcript.content(), is_error=run.error is not None)

    async def run_command(
        self,
        ctx: Context[Any, Any],
        command: str,
        cwd: Annotated[str | None, Field(description="default: /home/user")] = None,
        background: Annotated[bool, Field(description="answer at once with an id, and let it run on, as a server does")] = False,
        timeout_s: Seconds = 120,
    ) -> CallToolResult:
        """Run a shell command in the sandbox and get its output and exit code. `sudo` works without a password."""
        session = self._session_of(ctx)
        sandbox = await session.sandbox(0 if background else timeout_s)
        transcript, progress = Transcript(), _Progress(ctx)

        async def heard(text: str) -> None:
            transcript.write(text)
            if not background:
                await progress.tell(text)

        if background and len(session.commands) >= _MAX_COMMANDS:
            raise ToolError(f"{_MAX_COMMANDS} background commands are known: use kill_command, or command_output for those that have ended")
        handle = await sandbox.commands.run(
            command, background=True, cwd=cwd, timeout=0, on_stdout=heard, on_stderr=heard, retain_output=False
        )
        if background:
            session.commands[handle.pid] = BackgroundCommand(command, transcript, asyncio.create_task(_exit_code(handle)))
            return _answer([_text(f"command_id: {handle.pid}\nRead its output by command_output, end it by kill_command.")])
        try:
            async with asyncio.timeout(timeout_s):
                code = await _exit_code(handle)
        except TimeoutError:
            await handle.kill()
            transcript.note(f"killed after {timeout_s:g} s; give a longer timeout_s, or use background")
            return _answer(transcript.content(), is_error=True)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.create_task(handle.kill()))
            raise
        transcript.note(f"exit code {code}")
        return _answer(transcript.content(), is_error=code != 0)

    async def command_output(
        self,
        ctx: Context[Any, Any],
        command_id: int,
        wait_s: Annotated[float, Field(ge=0, le=600, description="wait so long for the command to end")] = 0,
    ) -> CallToolResult:
        """Get what a background command wrote since the last call, and whether it is still running."""
        session = self._session_of(ctx)
        command = _find(session, command_id)
        await session.sandbox(wait_s)
        await asyncio.wait({command.task}, timeout=wait_s)
        transcript = command.transcript
        if not command.task.done():
            transcript.note("still running")
            return _answer(transcript.take())
        session.commands.pop(command_id, None)
        code = command.task.result()
        transcript.note(f"exit code {code}")
        return _answer(transcript.content(), is_error=code != 0)

    async def kill_command(self, ctx: Context[Any, Any], command_id: int) -> str:
        """End a background command."""
        session = self._session_of(ctx)
        command = _find(session, command_id)
        sandbox = await session.sandbox()
        was_running = await sandbox.commands.kill(command_id)
        session.commands.pop(command_id, None)
        command.task.cancel()
        return "killed" if was_running else "it had ended already"

    async def read_file(
        self, ctx: Context[Any, Any], path: Path, offset: Annotated[int, Field(ge=0, description="begin at this byte")] = 0
    ) -> list[ContentBlock]:
        """Read a file of the sandbox: text as text, images as images, other files as binary content."""
        sandbox = await self._session_of(ctx).sandbox()
        data = await _read(sandbox, path, offset)
        kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
        kind = "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else kind
        encoded = base64.b64encode(data).decode()
        if kind is not None and not offset:
            return [ImageContent(type="image", data=encoded, mime_type=kind)]
        with contextlib.suppress(UnicodeDecodeError):
            text = data[: MAX_TEXT * 4].decode(errors="strict" if len(data) <= MAX_TEXT * 4 else "ignore")
            if "\0" not in text:
                return [_text(_page(text, offset, len(data)))]
        uri = f"file://{path}" if path.startswith("/") else f"file:///home/user/{path}"
        contents = BlobResourceContents(uri=uri, blob=encoded, mime_type="application/octet-stream")
        return [EmbeddedResource(type="resource", resource=contents)]

    async def write_file(self, ctx: Context[Any, Any], path: Path, content: str, encoding: Encoding = "text") -> str:
        """Write a file in the sandbox, with its directories; what was there is replaced."""
        try:
            data = content.encode() if encoding == "text" else base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise ToolError(f"content is not base64: {error}") from error
        sandbox = await self._session_of(ctx).sandbox()
        written = await sandbox.files.write(path, data)
        return f"{len(data)} bytes written to {written.path}"

    async def list_files(self, ctx: Context[Any, Any], path: Path = "/home/user", depth: Depth = 1) -> str:
        """List a directory of the sandbox: type, size in bytes, path."""
        sandbox = await self._session_of(ctx).sandbox()
        entries = await sandbox.files.list(path, depth)
        lines = [f"{'dir ' if entry.type is FileType.DIR else 'file'} {entry.size:>10} {entry.path}" for entry in entries[:_MAX_ENTRIES]]
        more = [f"… and {len(entries) - _MAX_ENTRIES} more"] if len(entries) > _MAX_ENTRIES else []
        return "\n".join(lines + more) or "(empty)"

    async def get_url(self, ctx: Context[Any, Any], port: Annotated[int, Field(ge=1, le=65535)]) -> str:
        """Get the address by which a server on a port of the sandbox is reached from outside."""
        sandbox = await self._session_of(ctx).sandbox()
        scheme = "http" if os.environ.get("E2B_API_URL", "").startswith("http://") else "https"
        host = sandbox.get_host(port)
        if host.endswith(".invalid"):
            raise ToolError("this server has no domain, so its sandboxes' ports have no addresses: use them from inside, by run_command")
        return f"{scheme}://{host}"

    async def reset_sandbox(self, ctx: Context[Any, Any]) -> str:
        """Throw the sandbox away, with all files, variables and commands; the next call gets a new one."""
        await self._session_of(ctx).reset()
        return "done"


class _FloodError(Exception):
    """A run prints too much."""


def _check_size(transcript: Transcript) -> None:
    if transcript.seen > _MAX_RUN:
        raise _FloodError


class _Progress:
    """Output as progress, up to a bound: each piece of it is a step."""

    def __init__(self, ctx: Context[Any, Any]) -> None:
        self._ctx = ctx
        self._steps = 0
        self._told = 0

    async def tell(self, text: str) -> None:
        if self._told > _MAX_PROGRESS:
            return
        self._told += len(text)
        self._steps += 1
        await self._ctx.report_progress(self._steps, message=text[:MAX_TEXT])


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _answer(content: list[ContentBlock], *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=content or [_text("(no output)")], is_error=is_error)


async def _exit_code(handle: AsyncCommandHandle[None]) -> int:
    try:
        return (await handle.wait()).exit_code
    except CommandExitException as error:
        return error.exit_code


def _find(session: Session, command_id: int) -> BackgroundCommand:
    try:
        return session.commands[command_id]
    except KeyError:
        known = ", ".join(f"{number} ({command.command[:40]})" for number, command in session.commands.items()) or "none"
        raise ToolError(f"there is no background command {command_id}; there are: {known}") from None


async def _read(sandbox: AsyncSandbox, path: str, offset: int) -> bytes:
    """At most ``_MAX_FILE`` bytes. Raises: ToolError: the file has more."""
    found = await sandbox.files.get_info(path)
    if found.type is FileType.DIR:
        raise ToolError(f"{path} is a directory: use list_files")
    too_long = ToolError(f"{path} has more than {_MAX_FILE} bytes after offset {offset}: take a part of it by run_command")
    if found.size - offset > _MAX_FILE:
        raise too_long
    data, passed = bytearray(), 0
    try:
        # The reported size is no limit: for a link it is the link's own, and files grow.
        async with await sandbox.files.read(path, format="stream") as stream:
            async for chunk in stream:
                data += chunk[max(0, offset - passed) :]
                passed += len(chunk)
                if len(data) > _MAX_FILE:
                    raise too_long
    except NotFoundException as error:
        raise ToolError(f"there is no file {path}") from error
    return bytes(data)


def _page(text: str, offset: int, size: int) -> str:
    """The beginning of ``text``, and where to go on."""
    page = text[:MAX_TEXT]
    read = len(page.encode())
    return page if read >= size else f"{page}\n[{size - read} more bytes: read on with offset {offset + read}]"
