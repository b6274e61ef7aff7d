"""The ``cloister`` command: finds the subcommand and runs it. The table below has the module of each subcommand.

A subcommand's module has ``add_options(parser)``, which adds its options, and ``run(args) -> int``, which returns the exit code.
Only the module of the chosen subcommand is imported; ``--version`` and ``--help`` import none. ``mcp`` is a program with its own options,
so its module receives the words of the command line.

Exit codes: 0 success, 1 a fault, 2 wrong options or settings (the server did not start and changed nothing), 130 interrupted. Commands
that run a program exit with its code; docs/howto/command-line.md lists all.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cloister import __version__
from cloister.cli.full_disk import NO_ROOM, tell_no_room
from cloister.errors import CloisterError, SettingsError, UnusableStateError

__all__ = ["COMMANDS", "GROUPS", "main", "whole_parser"]

COMMANDS = {
    "serve": ("cloister.cli.serve", "run the server in the foreground until SIGTERM"),
    "node": ("cloister.cli.node", "join a cluster, drain or remove a node; alone the supervisor process (started by serve)"),
    "agent": ("cloister.cli.agent", "the node agent of a cluster (started by serve)"),
    "api": ("cloister.cli.api", "the API and ingress process (started by serve)"),
    "cluster": ("cloister.cli.cluster", "make a cluster of several machines, and tokens to join it"),
    "nodes": ("cloister.cli.nodes", "list the nodes of a cluster"),
    "env": ("cloister.cli.env", 'print exports for the SDKs: eval "$(cloister env)"'),
    "key": ("cloister.cli.key", "create, list and revoke API keys"),
    "team": ("cloister.cli.team", "create, list, show, limit and remove teams"),
    "audit": ("cloister.cli.audit", "show and check the record of who changed what"),
    "secret-key": ("cloister.cli.secret_key", "change the key that encrypts the secrets of teams"),
    "run": ("cloister.cli.run", "run a program in a new sandbox, as `python FILE` would here"),
    "ps": ("cloister.cli.ps", "list live and paused sandboxes"),
    "exec": ("cloister.cli.exec", "run a command in a live sandbox"),
    "shell": ("cloister.cli.shell", "open a shell in a live or a new sandbox, on this terminal"),
    "cp": ("cloister.cli.cp", "copy files and directories to and from a sandbox"),
    "volume": ("cloister.cli.volume", "list, make, copy, remove, back up and restore volumes of a team"),
    "logs": ("cloister.cli.logs", "print the log of a sandbox, and follow it"),
    "connections": ("cloister.cli.connections", "print the connections of a sandbox, and why some were refused"),
    "top": ("cloister.cli.top", "show the processor, memory and disk that each sandbox uses"),
    "kill": ("cloister.cli.kill", "end sandboxes"),
    "status": ("cloister.cli.status", "show what runs, what is paused and how, and what a stop would end"),
    "service": ("cloister.cli.service", "install the server as a systemd service, or remove it; print its units"),
    "drain": ("cloister.cli.drain", "take no new sandboxes: before an upgrade, or before the machine goes down"),
    "backup": ("cloister.cli.backup", "write database, keys, settings and clients' templates into one file"),
    "restore": ("cloister.cli.restore", "put back a backup, or a copy of the database"),
    "doctor": ("cloister.cli.doctor", "check this host, and say how to fix what is missing"),
    "config": ("cloister.cli.config", "show the settings and where each comes from, or check them"),
    "census": ("cloister.cli.census", "list a server's kernel objects and files on this host, and leftovers"),
    "template": ("cloister.cli.template", "build, list and clean up templates"),
    "bundle": ("cloister.cli.bundle", "write built templates to a file, and import them on another host"),
    "checkpoint": ("cloister.cli.checkpoint", "get CRIU, which saves the memory of paused sandboxes on disk"),
    "runtime": ("cloister.cli.runtime", "install gVisor, and show which runtimes work on this host"),
    "mcp": ("cloister.cli.mcp", "serve MCP: a sandbox with tools for each session of an MCP client"),
    "ca": ("cloister.cli.ca", "manage the local certificate authority, for TLS without a public certificate"),
}
"""By name: the module and one line of help."""
GROUPS = {
    "Sandboxes": ("run", "ps", "exec", "shell", "cp", "volume", "logs", "connections", "top", "kill"),
    "Clients and teams": ("env", "team", "key", "ca", "mcp"),
    "Server": ("serve", "status", "config", "service", "drain", "backup", "restore", "audit", "secret-key", "doctor", "census"),
    "Cluster": ("cluster", "nodes", "node"),
    "Templates and runtimes": ("template", "bundle", "runtime", "checkpoint"),
    "Started by serve": ("api", "agent"),
}
"""Headings of the help and the commands below each; a command of no group stands under "Server"."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the most similar option, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}{self._nearest(message)}; see `{self.prog} --help`\n")

    def _nearest(self, message: str) -> str:
        import difflib  # noqa: PLC0415 - slow to import, and only errors need it

        _, unknown, rest = message.partition("unrecognized arguments: ")
        words = rest.split() if unknown else []
        near = difflib.get_close_matches(words[0].split("=")[0], self._option_string_actions, n=1) if words else []
        if words and self.get_default("unknown_hint"):
            return f" ({self.get_default('unknown_hint')})"
        return f" (did you mean {near[0]}?)" if near else ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, so that the error suggests the subcommand's own options."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def whole_parser() -> argparse.ArgumentParser:
    """The parser with the options of every subcommand, for completions and the man page (scripts/package). ``mcp`` has its own parser."""
    return _parser(*(name for name in COMMANDS if name != "mcp"), is_document=True)


def _parser(*asked: str | None, is_document: bool = False) -> argparse.ArgumentParser:
    """The parser of all subcommands; only those in ``asked`` have their options, so that only their modules are imported.

    ``is_document``: each has its line of help, in place of the list of :data:`GROUPS`.
    """
    parser = _Parser(
        prog="cloister",
        description="A self-hosted sandbox server with the E2B API.",
        usage="cloister [--help] [--version] COMMAND ...",
        epilog=None if is_document else _list_commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cloister {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help=None if is_document else argparse.SUPPRESS)
    for name, (module, text) in COMMANDS.items():
        description = text[0].upper() + text[1:] + "."
        subparser = subparsers.add_parser(name, help=text, description=description, prog=f"cloister {name}", allow_abbrev=False)
        if name in asked:
            importlib.import_module(module).add_options(subparser)
    return parser


def _list_commands() -> str:
    """Every command with its text, in groups; those of no group are the server's."""
    grouped = {name for names in GROUPS.values() for name in names}
    rest = tuple(name for name in COMMANDS if name not in grouped)
    width = max(map(len, COMMANDS)) + 2
    lines = []
    for heading, names in {**GROUPS, "Server": (*GROUPS["Server"], *rest)}.items():
        lines += [f"{heading}:", *(f"  {name:{width}}{COMMANDS[name][1]}" for name in names if name in COMMANDS), ""]
    return "\n".join([*lines, "`cloister COMMAND --help` describes a command, docs/howto/command-line.md all of them."])


def _run(arguments: list[str], asked: str | None) -> int:
    if arguments[:1] == ["mcp"]:
        return int(importlib.import_module(COMMANDS["mcp"][0]).run_words(arguments[1:]))
    args = _parser(asked).parse_args(arguments)
    return int(importlib.import_module(COMMANDS[args.command][0]).run(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) and return the exit code."""
    os.umask(0o022)  # files get the modes of docs/files.md under any umask; the api process sets 077
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    try:
        code = _run(arguments, asked)
        sys.stdout.flush()
    except SettingsError as error:
        print("\n".join(f"cloister: {fault}" for fault in error.faults), file=sys.stderr)
        code = 2
    except UnusableStateError as error:
        print(f"cloister: {error}", file=sys.stderr)
        code = 2
    except CloisterError as error:
        print(f"cloister: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        tell_no_room(error)
        code = 1
    except KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
