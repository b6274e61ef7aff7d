"""The options of ``cloister mcp``, read once."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister_mcp import __version__

__all__ = ["HttpOptions", "SandboxOptions", "parse"]

DEFAULT_KEY_FILE = Path("~/.config/cloister/mcp.key")
_EPILOG = """\
The Cloister server is the one that E2B_API_URL and E2B_API_KEY name, as `cloister env` prints them. When E2B_API_KEY is not set,
`cloister mcp` asks the server of this machine's data directory (options --data-dir and --config, as for `cloister env`).
docs/howto/mcp.md has configurations for MCP clients."""


@dataclass(frozen=True)
class SandboxOptions:
    """How the sandbox of a session is made."""

    template: str
    idle_s: int
    """How long it lives without a call."""
    envs: Mapping[str, str]
    internet: bool


@dataclass(frozen=True)
class HttpOptions:
    """How sessions over HTTP are served."""

    host: str
    port: int
    key_file: Path
    hosts: tuple[str, ...]
    """Further values of the Host header that are let in."""
    origins: tuple[str, ...]
    max_sessions: int
    idle_s: int
    """A session without a request ends after it."""


def parse(words: Sequence[str], prog: str) -> tuple[SandboxOptions, HttpOptions | None]:
    """The options in ``words``; without HttpOptions the session is on standard input and output."""
    parser = _parser(prog)
    args = parser.parse_args(words)
    pairs = [text.partition("=") for text in args.env]
    for name, separator, _ in pairs:
        if not name or not separator:
            parser.error("--env takes NAME=VALUE")
    sandbox = SandboxOptions(args.template, args.timeout, {name: value for name, _, value in pairs}, not args.no_internet)
    if args.http is None:
        return sandbox, None
    host, port = args.http
    if not _is_loopback(host) and not args.allow_host:
        parser.error(f"--http {host}: name the hosts by which clients reach it (--allow-host), so that other names are refused")
    key_file = Path(args.key_file).expanduser()
    return sandbox, HttpOptions(
        host, port, key_file, tuple(args.allow_host), tuple(args.allow_origin), args.max_sessions, args.session_timeout
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve MCP: each session gets a sandbox of its own, with tools that run code and commands and use files in it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cloister-mcp {__version__}")
    box = parser.add_argument_group("sandbox")
    box.add_argument("--template", default="code-interpreter-v1", metavar="NAME", help="default: %(default)s")
    idle_help = "seconds that the sandbox lives without a call (default: %(default)s)"
    box.add_argument("--timeout", type=_seconds, default=300, metavar="S", help=idle_help)
    box.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the sandbox; may be repeated")
    box.add_argument("--no-internet", action="store_true", help="the sandbox reaches no network")
    http = parser.add_argument_group("streamable HTTP (default: standard input and output, one session)")
    http.add_argument("--http", type=_listener, metavar="[HOST:]PORT", help="serve http://HOST:PORT/mcp; HOST is 127.0.0.1 if not given")
    http.add_argument(
        "--key-file",
        default=str(DEFAULT_KEY_FILE),
        metavar="FILE",
        help="the key that clients send (Authorization: Bearer KEY); made if it is not there (default: %(default)s)",
    )
    http.add_argument("--allow-host", action="append", default=[], metavar="HOST[:PORT]", help="a further Host header to let in")
    http.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="let in web pages of this origin")
    http.add_argument("--max-sessions", type=_count, default=16, metavar="N", help="sessions at a time (default: %(default)s)")
    http.add_argument(
        "--session-timeout", type=_seconds, default=1800, metavar="S", help="end a session S seconds after its last request (default: 1800)"
    )
    return parser


def _seconds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 24 * 3600:
        raise argparse.ArgumentTypeError("seconds from 1 to 86400")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("a number from 1 to 10000")
    return value


def _listener(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError("[HOST:]PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
