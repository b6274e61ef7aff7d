"""``cloister mcp``: runs the MCP server of ``clients/mcp`` with the address of the local server.

That program is a client. It has its own libraries (the MCP library, the E2B SDK) in its own environment, so no process of the server ever
imports them (docs/decisions/0828). This command finds the program and replaces itself with it; the program reads the options.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloister.config.client_env import read_client_env
from cloister.config.load import add_arguments, load
from cloister.errors import NotFoundError, PermissionDeniedError

__all__ = ["run_words"]

_HELP = {"-h", "--help", "--version"}
_PROGRAM = "cloister-mcp"
_ROOT = Path(__file__).parents[3]


def run_words(words: Sequence[str]) -> int:
    """Replace this process with the program. Raises: NotFoundError if it is not installed."""
    parser = argparse.ArgumentParser(prog="cloister mcp", add_help=False, allow_abbrev=False)
    add_arguments(parser, "data_dir")
    args, rest = parser.parse_known_args(words)
    program = _find_program()
    variables = {} if _HELP.intersection(rest) else _server_variables(args, os.environ)
    environ = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    environ["CLOISTER_MCP_PROG"] = "cloister mcp"
    os.execve(program, [str(program), *rest], environ)  # noqa: S606 - replaces this process on purpose


def _find_program() -> Path:
    """Search this environment (``pip install ./clients/mcp``), then the one that the set-up created beside it."""
    places = (Path(sys.executable).parent, _ROOT / ".venv-mcp" / "bin")
    found = next((place / _PROGRAM for place in places if os.access(place / _PROGRAM, os.X_OK)), None)
    if found is None:
        raise NotFoundError("cloister mcp is not installed", hint="run `make install` in the clone, or pip install ./clients/mcp")
    return found


def _server_variables(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Variables to add to the program's environment: none if it names a server, else those of the data directory's server.

    Raises:
        NotFoundError: the data directory has no server.
        PermissionDeniedError: only root may read its key.
    """
    if (environ.get("E2B_API_KEY") or environ.get("E2B_API_URL")) and args.data_dir is None:
        return {}
    try:
        return read_client_env(load(args, environ).data_dir).variables()
    except PermissionDeniedError as error:
        raise PermissionDeniedError(
            str(error), hint="set E2B_API_URL and E2B_API_KEY: as root, `cloister env` prints them, or `cloister key create` makes a key"
        ) from error
