"""``cloister exec ID -- COMMAND``: runs a command in a live sandbox, on the standard streams of this process.

Exit codes: the command's own (128 and the number of the signal that ended it); 125 the sandbox cannot be used; 126 the command cannot be
started; 128 and the number of the signal that ended ``cloister exec``, which sends the command SIGTERM.
"""

from __future__ import annotations

import argparse
import os

from cloister.cli.attached import local_size, needs_terminal, run_attached
from cloister.cli.endpoint import add_server_options, find_server, parse_pairs, passes_on_code, run_client
from cloister.client.api import connect
from cloister.client.sandbox import Program
from cloister.errors import UnavailableError

__all__ = ["RESUMED_S", "add_options", "add_program_options", "run", "terminal_variables"]

RESUMED_S = 300
"""How long a sandbox that ``--resume`` lets run may do so."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.usage = "%(prog)s [OPTION]... ID -- COMMAND [ARGUMENT]..."
    parser.add_argument("sandbox_id", metavar="ID", help="the sandbox, from `cloister ps`")
    parser.add_argument("command_words", metavar="COMMAND", nargs="+", help="the command and its arguments; no shell reads them")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal; without it, it has pipes")
    parser.add_argument("-n", "--no-stdin", action="store_true", help="give the command no input; without it, it gets standard input")
    add_program_options(parser)
    parser.set_defaults(unknown_hint="options of the command stand after --")


def add_program_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that starts a program in a live sandbox."""
    parser.add_argument("-u", "--user", help="run it as this user of the sandbox (default: the template's)")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="run it in this directory (default: the template's)")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable; may be given several times")
    parser.add_argument("--resume", action="store_true", help=f"let a paused sandbox run again, for {RESUMED_S} seconds at least")
    add_server_options(parser)


@passes_on_code
def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.tty:
        needs_terminal()
    program = Program(
        argv=tuple(args.command_words),
        user=args.user,
        cwd=args.workdir,
        envs={**(terminal_variables() if args.tty else {}), **parse_pairs("--env", args.env)},
        has_input=not args.no_stdin and not args.tty,
        size=local_size() if args.tty else None,
    )
    return run_client(_run(args, program))


def terminal_variables() -> dict[str, str]:
    """The variables that describe this terminal to a program."""
    return {name: os.environ[name] for name in ("TERM", "COLORTERM") if os.environ.get(name)}


async def _run(args: argparse.Namespace, program: Program) -> int:
    async with connect(find_server(args)) as api:
        if args.resume:
            await api.resume(args.sandbox_id, RESUMED_S)
        sandbox = await api.use(args.sandbox_id)
        try:
            return await run_attached(sandbox, program)
        except UnavailableError as error:
            raise await api.explain(args.sandbox_id, error) from error
