"""``cloister run FILE``: one program in one sandbox. Creates it, runs the file, streams what it prints, kills it.

Exit codes: 0 when the program ended well, 1 when it raised or the server refused. A client of the HTTP API like any other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from cloister.cli.client_env import ClientEnv, read_client_env
from cloister.config.load import add_arguments, load
from cloister.errors import CloisterError, InternalError, InvalidRequestError, UnavailableError

__all__ = ["add_parser", "run"]

_LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".ts": "typescript",
    ".mts": "typescript",
    ".r": "r",
    ".java": "java",
    ".sh": "bash",
    ".bash": "bash",
}
_PORT = "49999"
_MAX_LINE_BYTES = 256 * 1024 * 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("run", help="run a file in a sandbox of its own and stream its output")
    parser.add_argument("file", type=Path, help="the program; - reads standard input")
    parser.add_argument("--language", help="default: by the file's extension")
    parser.add_argument("--template", default="code-interpreter-v1", help="default: %(default)s")
    parser.add_argument("--timeout", type=int, default=300, metavar="S", help="longest run, in seconds (default: %(default)s)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable of the program")
    add_arguments(parser, "data_dir")


def run(args: argparse.Namespace) -> int:
    """Run the file; the exit code is the program's fortune."""
    language = args.language or _LANGUAGES.get(args.file.suffix.lower())
    if language is None:
        raise InvalidRequestError(f"cannot tell the language of {args.file} by its extension", hint="give --language")
    try:
        code = sys.stdin.read() if str(args.file) == "-" else args.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"cannot read {args.file}: {error}") from error
    pairs = [text.partition("=") for text in args.env]
    if not all(separator for _, separator, _ in pairs):
        raise InvalidRequestError("--env takes NAME=VALUE")
    body = {"code": code, "language": language, "env_vars": {name: value for name, _, value in pairs}}
    try:
        return asyncio.run(_run(_find_server(args), args.template, args.timeout, body))
    except aiohttp.ClientError as error:
        raise UnavailableError(f"the server does not answer: {error}", hint="is `cloister serve` running?") from error


def _find_server(args: argparse.Namespace) -> ClientEnv:
    """The server that the environment names as the SDKs' does, else that of the data directory."""
    url, key = os.environ.get("E2B_API_URL"), os.environ.get("E2B_API_KEY")
    if url and key and args.data_dir is None:
        return ClientEnv(url.rstrip("/"), key)
    return read_client_env(load(args, os.environ).data_dir)


async def _run(server: ClientEnv, template: str, timeout_s: int, body: dict[str, Any]) -> int:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as session,
        _sandbox(session, server, template, timeout_s) as sandbox,
    ):
        headers = {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": _PORT, "X-Access-Token": sandbox["envdAccessToken"]}
        async with session.post(f"{server.api_url}/execute", json=body, headers=headers) as response:
            if response.status != 200:
                raise _fault(response.status, await response.text())
            return await _print_events(response)


@asynccontextmanager
async def _sandbox(session: aiohttp.ClientSession, server: ClientEnv, template: str, timeout_s: int) -> AsyncIterator[dict[str, Any]]:
    headers = {"X-API-KEY": server.api_key}
    async with session.post(
        f"{server.api_url}/v2/sandboxes", json={"templateID": template, "timeout": timeout_s}, headers=headers
    ) as response:
        if response.status != 201:
            raise _fault(response.status, await response.text())
        sandbox: dict[str, Any] = await response.json()
    try:
        yield sandbox
    finally:
        async with session.delete(f"{server.api_url}/sandboxes/{sandbox['sandboxID']}", headers=headers):
            pass


def _fault(status: int, text: str) -> CloisterError:
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = text.strip() or "no reason given"
    return InvalidRequestError(message) if status < 500 else UnavailableError(message)


async def _print_events(response: aiohttp.ClientResponse) -> int:
    """Print each event as it comes; 1 if one was an error."""
    code, ended, line = 0, False, b""
    async for chunk in response.content.iter_any():
        *lines, line = (line + chunk).split(b"\n")
        if len(line) > _MAX_LINE_BYTES:
            raise InternalError("an event of the sandbox is too long")
        for text in lines:
            if text.strip():
                event = json.loads(text)
                ended = ended or event["type"] == "end_of_execution"
                code = max(code, _print_event(event))
    if not ended:
        print("cloister: the run was cut off before its end", file=sys.stderr)
        return 1
    return code


def _print_event(event: dict[str, Any]) -> int:
    match event["type"]:
        case "stdout":
            print(event["text"], end="", flush=True)
        case "stderr":
            print(event["text"], end="", file=sys.stderr, flush=True)
        case "result" if event.get("text"):
            print(event["text"], flush=True)
        case "error":
            print(event.get("traceback") or f"{event.get('name')}: {event.get('value')}", file=sys.stderr, flush=True)
            return 1
        case _:
            pass
    return 0
