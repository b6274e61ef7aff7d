"""Which server a command talks to, as a client or as its operator, and how long it may run: shared by the commands about sandboxes.

The variables of the SDKs (E2B_API_URL and E2B_API_KEY) name a server and a team. Without them it is the server of the data directory: root
is its operator, and commands that act as a team use the key in its file ``client.env``.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from cloister.cli.full_disk import NO_ROOM, tell_no_room
from cloister.config.client_env import NO_KEY, ClientEnv, read_client_env
from cloister.config.load import add_arguments, load
from cloister.errors import AuthenticationError, CloisterError, InvalidRequestError, PermissionDeniedError, SettingsError

__all__ = ["FAILED", "TIMED_OUT", "add_server_options", "find_server", "is_operator", "parse_pairs", "passes_on_code", "run_client"]

FAILED = 125
"""Exit code of commands that pass on a program's own: the program was not run, or its end is not known."""
TIMED_OUT = 124
"""Exit code of a program that was ended at its time limit, as of timeout(1)."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where the server is."""
    add_arguments(parser, "data_dir")


def find_server(args: argparse.Namespace) -> ClientEnv:
    """The server and the key of a command that acts as a team.

    Raises: AuthenticationError: there is no key. NotFoundError: no server has run on the data directory. PermissionDeniedError.
    """
    named = _named_server(args)
    if named is not None:
        return named
    try:
        env = read_client_env(load(args, os.environ).data_dir)
    except PermissionDeniedError as error:
        raise PermissionDeniedError(str(error.message), hint="run this as root, or set E2B_API_URL and E2B_API_KEY") from error
    if env.api_key:
        return env
    key = os.environ.get("E2B_API_KEY")
    if not key:
        raise AuthenticationError(NO_KEY)
    return dataclasses.replace(env, api_key=key)


def is_operator(args: argparse.Namespace) -> bool:
    """Whether the command sees the sandboxes of all teams: root, who names no team by the variables of the SDKs."""
    return os.geteuid() == 0 and _named_server(args) is None


def _named_server(args: argparse.Namespace) -> ClientEnv | None:
    """Raises: AuthenticationError: the variables name a server and no team; the command must not act on another server instead."""
    url, key = os.environ.get("E2B_API_URL"), os.environ.get("E2B_API_KEY")
    if not url or args.data_dir is not None:
        return None
    if not key:
        raise AuthenticationError(f"E2B_API_URL names {url}, and E2B_API_KEY is not set", hint="set both; or neither, or --data-dir")
    return ClientEnv(url.rstrip("/"), key)


def parse_pairs(option: str, words: list[str]) -> dict[str, str]:
    """The names and values of an option NAME=VALUE that is given several times. Raises: InvalidRequestError."""
    pairs = [word.partition("=") for word in words]
    for name, separator, _ in pairs:
        if not name or not separator:
            raise InvalidRequestError(f"{option} takes NAME=VALUE, not {name!r}")
    return {name: value for name, _, value in pairs}


def passes_on_code(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """For a command that exits with the code of a program: its own faults have :data:`FAILED`, from its first line on.

    Only wrong settings keep their own code.
    """

    @functools.wraps(run)
    def command(args: argparse.Namespace) -> int:
        try:
            return run(args)
        except SettingsError:
            raise
        except CloisterError as error:
            print(f"cloister: {error}", file=sys.stderr)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            tell_no_room(error)
        return FAILED

    return command


def run_client(work: Coroutine[Any, Any, int]) -> int:
    """Run ``work`` and return its result.

    SIGINT, SIGTERM and SIGHUP cancel it, so that it can end what it began; then the result is 128 and the number of the signal.
    """
    return asyncio.run(_run_until_signal(work))


async def _run_until_signal(work: Coroutine[Any, Any, int]) -> int:
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    received: list[int] = []

    def end(number: int) -> None:
        if not received:  # a second signal does not interrupt the end of the sandbox
            received.append(number)
            task.cancel()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
