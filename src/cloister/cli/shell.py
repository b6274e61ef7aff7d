"""``cloister shell ID`` and ``cloister shell --template T``: a login shell in a live or a new sandbox, on this terminal.

A new sandbox is ended with the shell. Exit codes: the shell's own; 125 and 126 as ``cloister exec``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from cloister.cli.attached import local_size, needs_terminal, run_attached
from cloister.cli.endpoint import find_server, parse_pairs, passes_on_code, run_client
from cloister.cli.exec import RESUMED_S, add_program_options, terminal_variables
from cloister.client.api import NewSandbox, connect
from cloister.client.sandbox import Program, SandboxClient
from cloister.errors import UnavailableError

__all__ = ["add_options", "run"]

_SHELLS = (("/bin/bash", "-i", "-l"), ("/bin/sh", "-i", "-l"))
"""The first that the sandbox has."""
_TIMEOUT_S = 3600


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.usage = "%(prog)s [OPTION]... (ID | --template NAME)"
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("sandbox_id", metavar="ID", nargs="?", help="the sandbox, from `cloister ps`")
    which.add_argument("--template", metavar="NAME", help="create a sandbox of this template, and end it with the shell")
    parser.add_argument("--timeout", type=int, default=_TIMEOUT_S, metavar="S", help="lifetime of a new sandbox (default: %(default)s)")
    add_program_options(parser)


@passes_on_code
def run(args: argparse.Namespace) -> int:
    """Run the shell and return its exit code."""
    needs_terminal()
    envs = {**terminal_variables(), **parse_pairs("--env", args.env)}
    program = Program(argv=_SHELLS[0], user=args.user, cwd=args.workdir, envs=envs, size=local_size())
    return run_client(_run(args, program))


async def _run(args: argparse.Namespace, program: Program) -> int:
    async with connect(find_server(args)) as api:
        if args.template is not None:
            async with api.sandbox(NewSandbox(template=args.template, timeout_s=args.timeout, envs={})) as sandbox:
                return await _start(sandbox, program)
        if args.resume:
            await api.resume(args.sandbox_id, RESUMED_S)
        sandbox = await api.use(args.sandbox_id)
        try:
            return await _start(sandbox, program)
        except UnavailableError as error:
            raise await api.explain(args.sandbox_id, error) from error


async def _start(sandbox: SandboxClient, program: Program) -> int:
    shells = [shell for shell in _SHELLS if await sandbox.stat(shell[0], None) is not None]
    return await run_attached(sandbox, replace(program, argv=shells[0] if shells else _SHELLS[-1]))
