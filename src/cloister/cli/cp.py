"""``cloister cp SRC DST``: copies a file or a directory to or from a sandbox. One side is ``ID:PATH``, the other is local.

As with cp(1), a target that is a directory gets the copy below it, and one that does not exist gets the name. Modes, times and links are
kept, owners are not. Exit codes: 0 everything was copied; 1 something was not, which is printed.
"""

from __future__ import annotations

import argparse
import posixpath
import sys
from pathlib import Path

from cloister.cli.endpoint import add_server_options, find_server, run_client
from cloister.client.api import connect
from cloister.client.copying import download, upload
from cloister.client.sandbox import SandboxClient
from cloister.config.client_env import ClientEnv
from cloister.errors import InvalidRequestError, NotFoundError
from cloister.ids import is_sandbox_id
from cloister.protocol.filesystem import FileType

__all__ = ["add_options", "local_target", "run", "split_side"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("source", metavar="SRC", help="ID:PATH, or a local path; ./ before one that looks like the former")
    parser.add_argument("target", metavar="DST", help="likewise; exactly one of both is in a sandbox")
    parser.add_argument("-u", "--user", help="read and write as this user of the sandbox (default: the template's)")
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Copy."""
    source, target = split_side(args.source), split_side(args.target)
    if (source[0] is None) == (target[0] is None):
        hint = "`cloister ps` lists the ids of sandboxes" if source[0] is None else "copy to this machine first"
        raise InvalidRequestError("one of SRC and DST must be ID:PATH, and the other a local path", hint=hint)
    return run_client(_run(find_server(args), source, target, args.user))


def split_side(word: str) -> tuple[str | None, str]:
    """The sandbox and the path that a word names; None and the word for a local path."""
    name, colon, path = word.partition(":")
    return (name, path) if colon and is_sandbox_id(name) else (None, word)


async def _run(server: ClientEnv, source: tuple[str | None, str], target: tuple[str | None, str], user: str | None) -> int:
    async with connect(server) as api:
        sandbox = await api.use(source[0] or target[0] or "")
        if source[0] is None:
            left_out = await upload(sandbox, Path(source[1]), target[1], user)
        else:
            place = local_target(source[1], target[1], is_directory=await _is_directory(sandbox, source[1], user))
            left_out = await download(sandbox, source[1], place, user)
    for one in left_out:
        print(f"cloister: left out: {one}", file=sys.stderr)
    return int(bool(left_out))


async def _is_directory(sandbox: SandboxClient, source: str, user: str | None) -> bool:
    found = await sandbox.stat(source, user)
    if found is None:
        raise NotFoundError(f"there is no {source} in the sandbox")
    return found.type == FileType.FILE_TYPE_DIRECTORY


def local_target(source: str, target: str, *, is_directory: bool) -> Path:
    """The path that the copy of ``source`` gets here; a directory is made. Raises: NotFoundError, InvalidRequestError."""
    try:
        return _place(posixpath.basename(source.rstrip("/")), target, is_directory=is_directory)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {target}: {error.strerror}", hint="give another path") from error


def _place(name: str, target: str, *, is_directory: bool) -> Path:
    """Raises: OSError."""
    path = Path(target)
    if path.is_dir():
        path = path / name if name not in ("", ".", "..") else path
    elif target.endswith("/") and not is_directory:
        raise NotFoundError(f"there is no directory {target} here", hint="make it first")
    if not path.parent.is_dir():
        raise NotFoundError(f"there is no directory {path.parent} here", hint="make it first")
    if is_directory:
        if path.exists() and not path.is_dir():
            raise InvalidRequestError(f"{path} is a file", hint="give another name, or a directory")
        path.mkdir(exist_ok=True)
    return path
