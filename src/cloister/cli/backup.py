"""``cloister backup FILE|DIR``: writes one file from which ``cloister restore`` makes the server again. Works while the server runs."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Self

from cloister.backup.making import BackupReport, BackupSource, make_backup
from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, config_file, load
from cloister.errors import InvalidRequestError, PermissionDeniedError, StoreError

__all__ = ["Progress", "add_options", "gib", "run"]

_PROGRESS_S = 1.0
_SHOWN = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("target", metavar="FILE|DIR", type=Path, help="a new file, or a directory: then the name of the file has the time")
    parser.add_argument(
        "--no-keys", action="store_true", help="leave out the key of the secrets, other private keys and the default API key"
    )
    parser.add_argument("--no-layers", action="store_true", help="clients' templates by reference only: for a store that is kept otherwise")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser, "data_dir", "store_dir")


def run(args: argparse.Namespace) -> int:
    """Make the backup."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("a backup reads the server's files", hint="run it with sudo")
    if settings.database_url is not None:
        raise InvalidRequestError("the state is in PostgreSQL, which this command does not copy", hint="see docs/howto/postgresql.md")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a backup that gets SIGTERM leaves nothing
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each layer is held by a descriptor
    target = args.target.absolute()
    if target.is_dir():
        target /= time.strftime("cloister-%Y%m%dT%H%M%SZ.tar", time.gmtime())
    source = BackupSource(
        data_dir=settings.data_dir,
        store_dir=settings.store_dir,
        config=config_file(args, os.environ)[0],
        with_keys=not args.no_keys,
        with_layers=not args.no_layers,
    )
    with recorded(settings, "server.backup", str(target)), Progress("backing up") as progress:
        try:
            report = make_backup(source, target, progress.show)
        except OSError as error:
            raise StoreError(f"the backup failed: {error}") from error
    print(json.dumps(report.to_json(), indent=1) if args.json else "\n".join(_told(report, with_layers=source.with_layers)))
    return 0


def _told(report: BackupReport, *, with_layers: bool) -> list[str]:
    layers = f"{report.layers} layers ({gib(report.layer_bytes)})" if with_layers else "without layers (--no-layers)"
    lines = [
        f"{report.file}: {gib(report.bytes)}",
        f"database: schema {report.schema}",
        f"settings: {'in it' if report.with_config else 'there is no file of settings'}",
        f"templates of clients: {report.templates}, {layers}",
        "keys: in it. Who reads this file reads the secrets of all teams: keep it as safe as the server (--no-keys leaves them out)"
        if report.with_keys
        else "keys: not in it. Keep api/secrets.key of the data directory elsewhere: without it the secrets of all teams are lost",
        "not in it: sandboxes, their logs and memory, uploads, and stock templates (`cloister template build all` builds them)",
        "not in it: the data of volumes (`cloister volume backup` writes that of one)",
    ]
    for build_id, why in list(report.left_out.items())[:_SHOWN]:
        lines.append(f"left out: build {build_id}: {why}")
    if len(report.left_out) > _SHOWN:
        lines.append(f"left out: {len(report.left_out) - _SHOWN} more (--json)")
    return lines


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"


class Progress:
    """A line on a terminal that says how far a copy is; nothing where standard error is no terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_shown = sys.stderr.isatty()
        self._at = time.monotonic()
        self._has_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_line:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def show(self, done: int, total: int) -> None:
        """Say how many bytes of how many are done, at most once in a second."""
        now = time.monotonic()
        if self._is_shown and now - self._at > _PROGRESS_S:
            self._at, self._has_line = now, True
            print(f"\r\033[K{self._title}: {gib(done)} of {gib(total)}", end="", file=sys.stderr, flush=True)
