"""``cloister audit``: the record of who changed what, from the files of the server, whether it runs or not; and a check of them."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cloister.cli.moments import parse_since
from cloister.cli.opened import open_store
from cloister.cli.recording import audit_files
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.control.teams import Teams
from cloister.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from cloister.ids import is_team_id
from cloister.model.audit import OPERATOR, AuditQuery, StoredRecord
from cloister.store.audit_check import check_chain

__all__ = ["add_options", "run"]

_POLL_S = 0.5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--team", help=f"only of this team (name or id); '{OPERATOR}': only of the whole server")
    parser.add_argument("--action", help="only this action, such as sandbox.kill, or all of a kind, such as sandbox")
    parser.add_argument("--since", help="only from then on: a date (UTC), or an age such as 30m, 12h, 7d")
    parser.add_argument("--limit", type=int, default=100, help="at most so many records, the latest ones (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new records until interrupted")
    parser.add_argument("--check", action="store_true", help="check that no record was changed or removed; exit code 1 if one was")
    parser.add_argument("--against", type=Path, metavar="FILE", help="an earlier output of --check, kept elsewhere, to check against too")
    add_arguments(parser, "data_dir", "audit_total_mib")


def run(args: argparse.Namespace) -> int:
    """Show or check the records."""
    settings = load(args, os.environ)
    try:
        (settings.data_dir / "api").stat()
        if settings.database_url is None:
            (settings.data_dir / "api" / "cloister.db").stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {error.filename}", hint="has `cloister serve` been started on this data directory?") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{error.filename} is not readable", hint="run this as root") from error
    return _check(args, settings) if args.check else _show(args, settings)


def _show(args: argparse.Namespace, settings: Settings) -> int:
    owner = None if args.team is None else asyncio.run(_find_owner(settings, args.team))
    query = AuditQuery(owner=owner, action=args.action, since=parse_since(args.since) if args.since else None, limit=max(1, args.limit))
    shown = _last_numbers(settings) if args.follow else {}
    records = _latest(settings, query)
    while True:
        for stored in records:
            shown[stored.owner] = max(stored.number, shown.get(stored.owner, 0))
            print(_json(stored) if args.json else _line(stored), flush=args.follow)
        if not args.follow:
            return 0
        time.sleep(_POLL_S)
        records = _newer(settings, query, shown)


def _last_numbers(settings: Settings) -> dict[str, int]:
    with audit_files(settings) as files:
        return {owner: head[1] for owner in files.owners() if (head := files.head(owner)) is not None}


def _latest(settings: Settings, query: AuditQuery) -> Sequence[StoredRecord]:
    """The latest records, oldest first."""
    found: list[StoredRecord] = []
    position = None
    with audit_files(settings) as files:
        while len(found) < query.limit:
            page = files.read(dataclasses.replace(query, before=position, limit=query.limit - len(found)))
            found += page.records
            position = page.following
            if position is None:
                break
    return found[::-1]


def _newer(settings: Settings, query: AuditQuery, shown: dict[str, int]) -> Sequence[StoredRecord]:
    """All records after those that were shown, oldest first. Changes ``shown``."""
    with audit_files(settings) as files:
        owners = [owner for owner in files.owners() if query.owner in (None, owner)]
        found = [stored for owner in owners for stored in files.after(owner, shown.get(owner, 0))]
    for stored in found:
        shown[stored.owner] = max(stored.number, shown.get(stored.owner, 0))
    return sorted((stored for stored in found if query.accepts(stored.record)), key=lambda one: one.position)


async def _find_owner(settings: Settings, name: str) -> str:
    """The owner of records: the operator, or a team by name or id. A removed team has its id alone."""
    if name == OPERATOR or is_team_id(name):
        return name
    async with open_store(settings) as store:
        return (await Teams(store).find(name)).team_id


def _json(stored: StoredRecord) -> str:
    return json.dumps({"number": stored.number, **stored.record.to_json()})


def _line(stored: StoredRecord) -> str:
    record = stored.record
    outcome = record.error or "ok"
    who = record.key_id or "-"
    at = str(record.to_json()["at"])[:19]
    words = (f"{at}Z", f"{stored.owner:21}", f"{who:36}", f"{record.address:15}", f"{record.action:22}", f"{outcome:12}", record.object_id)
    return " ".join(words).rstrip()


def _check(args: argparse.Namespace, settings: Settings) -> int:
    known: dict[str, dict[int, str]] = {}
    if args.against is not None:
        known = _parse_known(args.against)
    is_sound = True
    with audit_files(settings) as files:
        owners = sorted({*files.owners(), *known})
        for owner in owners:
            report = check_chain(files, owner, known.get(owner))
            is_sound = is_sound and not report.faults
            print(f"{owner} {report.last} {report.digest or '-'} {report.count} records, {'damaged' if report.faults else 'sound'}")
            for fault in report.faults:
                print(f"cloister: {owner}: {fault}", file=sys.stderr)
    return 0 if is_sound else 1


def _parse_known(path: Path) -> dict[str, dict[int, str]]:
    known: dict[str, dict[int, str]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            owner, number, digest, *_ = line.split()
            known.setdefault(owner, {})[int(number)] = digest
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read as an output of `cloister audit --check`: {error}") from error
    return {owner: {number: digest for number, digest in own.items() if number} for owner, own in known.items()}
