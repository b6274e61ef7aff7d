"""``cloister drain``: the server takes no new sandboxes; those that run go on, are paused, or are waited for. ``--undo`` ends it."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from functools import partial

from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, load
from cloister.errors import ConflictError, DeadlineError, PermissionDeniedError
from cloister.model.drain import Drained
from cloister.model.lifecycle import PauseKind
from cloister.processes.node_calls import change_drain, drain_state

__all__ = ["add_options", "run"]

_POLL_S = 0.5
_HOW = {PauseKind.CHECKPOINT: "on disk with memory", PauseKind.FROZEN: "in memory", PauseKind.FILES: "on disk, files alone"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--pause", action="store_true", help="pause all sandboxes, to disk where that is possible; clients cannot resume them")
    way.add_argument(
        "--wait", metavar="S", type=float, help="wait for so many seconds until no sandbox runs; exit code 1: some do"
    )
    way.add_argument("--undo", action="store_true", help="take sandboxes again")
    parser.add_argument("--reason", metavar="TEXT", default="", help="a reason, which clients are told")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Drain, or end the drain."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("only root may drain a server", hint="run it with sudo")
    deadline = time.monotonic() + (args.wait or 0.0)
    change = partial(change_drain, settings, is_on=not args.undo, pause=args.pause, reason=args.reason)
    with recorded(settings, "server.undrain" if args.undo else "server.drain"):
        drained = change()
    while args.wait and drained.running and time.monotonic() < deadline:
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        if drain_state(settings) is None:
            raise ConflictError("the drain was undone, or the server was started anew, meanwhile")
        drained = change()
    print(json.dumps(asdict(drained), indent=1) if args.json else _told(drained))
    if args.wait and drained.running:
        raise DeadlineError(f"{drained.running} sandboxes still run after {args.wait:g} s", hint="wait longer, or use --pause")
    return int(bool(args.pause and drained.running))


def _told(drained: Drained) -> str:
    if drained.state is None:
        return "the server takes sandboxes again"
    lines = [f"the server takes no new sandboxes; {drained.running} run"]
    lines += [f"{count} paused {_HOW[PauseKind(kind)]}" for kind, count in drained.paused.items() if kind in set(PauseKind)]
    if drained.paused.get("not_paused"):
        lines.append(f"{drained.paused['not_paused']} could not be paused: the server's log has the reasons (sandbox.not_saved)")
    lines.append("undo: cloister drain --undo. A stop ends the drain, and pauses what runs")
    return "\n".join(lines)
