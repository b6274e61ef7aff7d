"""``cloister restore FILE``: puts back a backup of ``cloister backup``, or a copy of the database. The server must be stopped."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path

from cloister.backup.restoring import RestoreReport, RestoreTarget, is_database, restore_backup, restore_database
from cloister.cli.backup import Progress
from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, load
from cloister.errors import NotFoundError, PermissionDeniedError, StoreError

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a backup, or a database of DATA_DIR/api/backups")
    parser.add_argument(
        "--replace", action="store_true", help="replace a database that is there; the former files move to DATA_DIR/replaced"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser, "data_dir", "store_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Restore."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("the restored files belong to the server", hint="run it with sudo")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was unpacked so far goes away
    target = RestoreTarget(data_dir=settings.data_dir, store_dir=settings.store_dir, run_dir=settings.run_dir, replace=args.replace)
    with recorded(settings, "server.restore", str(args.file.absolute())):
        report = _restore(args.file, target)
    print(json.dumps(report.to_json(), indent=1) if args.json else "\n".join(_told(report)))
    return 0


def _restore(path: Path, target: RestoreTarget) -> RestoreReport:
    try:
        if is_database(path):
            return restore_database(path, target)
        with path.open("rb") as file, Progress("restoring") as progress:
            size = path.stat().st_size
            return restore_backup(file, target, lambda done: progress.show(done, size))
    except FileNotFoundError as error:
        if error.filename == os.fspath(path):
            raise NotFoundError(f"there is no {path}") from error
        raise StoreError(f"nothing was restored: {error}") from error
    except OSError as error:
        raise StoreError(f"nothing was restored: {error}") from error


def _told(report: RestoreReport) -> list[str]:
    lines = [f"restored: {', '.join(report.files)}"]
    if report.release:
        made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.made_at))
        lines.append(f"from a backup of {made} by release {report.release}, schema {report.schema}")
        lines.append(
            f"templates of clients: {report.templates} new, {report.layers} new layers, {report.layers_present} were there already"
        )
    else:
        lines.append(f"schema {report.schema}: the database alone")
    if report.layers_missing:
        lines.append(f"MISSING: {len(report.layers_missing)} layers; sandboxes of their templates fail until these are built again")
    if report.without_keys:
        lines.append(
            "NO KEYS in this backup: put your copy of api/secrets.key into the data directory before the start, if teams have secrets"
        )
    if report.config:
        lines.append(f"settings: {report.config} has those of the backup; read them, then move the file to /etc/cloister/cloister.toml")
    if report.replaced:
        lines.append(f"the former files are in {report.replaced}")
    if report.release:
        lines.append("next: cloister template build all, then start the server")
    return lines
