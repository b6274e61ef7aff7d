"""``cloister status``: whether a server runs, its sandboxes and how each paused one is kept, and what a stop would take from them.

Reads and changes nothing. Works also while the server is stopped. Exit codes: 0 the server answers, 1 it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter

from cloister.cli.table import shown_size, shown_span
from cloister.config.load import add_arguments, load
from cloister.errors import PermissionDeniedError
from cloister.model.lifecycle import PauseKind
from cloister.node.stop_plan import StopPlan
from cloister.processes.status import SandboxStatus, ServerStatus, take_status

__all__ = ["add_options", "run"]

_SHOWN = 20
_HOW = {
    PauseKind.FROZEN: "frozen in memory",
    PauseKind.CHECKPOINT: "with memory on disk",
    PauseKind.FILES: "files only",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON, with every sandbox")
    shown.add_argument("--all", action="store_true", help=f"list every sandbox, not only the first {_SHOWN} paused ones")
    add_arguments(parser, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Print the status."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("the status reads the server's journal", hint="run it with sudo")
    status = take_status(settings)
    if args.json:
        print(json.dumps(status.to_json(), indent=1))
    else:
        print("\n".join(_told(status, show_all=args.all)))
    return int(status.node is None or not status.is_api_up)


def _told(status: ServerStatus, *, show_all: bool) -> list[str]:
    paused = [one for one in status.sandboxes if one.kind]
    running = len(status.sandboxes) - len(paused)
    kinds = Counter(one.kind for one in paused)
    hows = ", ".join(f"{kinds[kind]} {how}" for kind, how in _HOW.items() if kinds[kind])
    frozen = [one for one in paused if one.kind == PauseKind.FROZEN]
    lines = [
        _row("node", _node(status)),
        _row("api", f"answers on {status.api_url}" if status.is_api_up else "does not answer"),
        *([_row("drain", _drain(status))] if status.node is not None and status.node.drain is not None else []),
        _row("sandboxes", f"{running} running, {len(paused)} paused{f' ({hows})' if hows else ''}"),
        _row("runtimes", _runtimes(status)),
        _row("memory", _memory(status, frozen)),
    ]
    if status.stop is not None:
        lines.append(_row("stop", f"on_stop={status.stop.on_stop}: {_stop(status.stop)}"))
    lines.append(_row("reboot", _stop(status.reboot)))
    shown = sorted(status.sandboxes if show_all else paused, key=lambda one: one.since)
    rows = shown if show_all else shown[:_SHOWN]
    if rows:
        sizes = f"{'MEMORY':>8} {'SWAP':>8} {'DISK':>8}"
        lines += ["", f"{'SANDBOX':22} {'TEAM':25} {'TEMPLATE':22} {'RUNTIME':9} {'STATE':17} {'SINCE':>8} {sizes}"]
        lines += [line for one in rows for line in _sandbox(one)]
    if len(rows) < len(shown):
        lines.append(f"and {len(shown) - len(rows)} more (--all)")
    return lines


def _row(name: str, text: str) -> str:
    return f"{name:<10} {text}"


def _node(status: ServerStatus) -> str:
    if status.node is None:
        return "does not answer" if status.instance is not None else "does not run"
    return f"answers, version {status.node.version}, instance {status.node.instance}"


def _drain(status: ServerStatus) -> str:
    drain = None if status.node is None else status.node.drain
    if drain is None:
        return ""
    takes = "no new sandboxes, and resumes none" if drain.refuses_resumes else "no new sandboxes"
    since, why = shown_span(time.time() - drain.since), f": {drain.reason}" if drain.reason else ""
    return f"takes {takes}, since {since}{why} (cloister drain --undo)"


def _runtimes(status: ServerStatus) -> str:
    """How many sandboxes are in each."""
    counts = Counter(one.runtime for one in status.sandboxes)
    return ", ".join(f"{counts[name]} in {name}" for name in sorted(counts)) or "no sandbox"


def _memory(status: ServerStatus, frozen: list[SandboxStatus]) -> str:
    host = status.host
    parts = [f"{shown_size(host.available)} of {shown_size(host.total)} available"]
    if status.node is not None and "reserve" in status.node.memory:
        parts.append(f"reserve {shown_size(status.node.memory['reserve'])}")
    parts.append(f"swap {shown_size(host.swap_free)} of {shown_size(host.swap_total)} free" if host.swap_total else "no swap")
    if frozen:
        parts.append(f"frozen sandboxes hold {shown_size(sum(one.resident for one in frozen))}")
    if status.node is not None and status.node.paused.get("stuck"):
        parts.append("LOW, and no frozen sandbox can be moved out")
    return ", ".join(parts)


def _stop(plan: StopPlan) -> str:
    return f"{plan.told()}{f' ({plan.ways_out})' if plan.ways_out else ''}"


def _sandbox(one: SandboxStatus) -> list[str]:
    state = f"{one.state} {one.kind}".strip()
    sizes = f"{shown_size(one.resident):>8} {shown_size(one.swapped):>8} {shown_size(one.disk):>8}"
    since = shown_span(time.time() - one.since)
    line = f"{one.sandbox_id:22} {one.team_id:25} {one.template[:22]:22} {one.runtime:9} {state:17} {since:>8} {sizes}"
    return [line, f"  not on disk: {one.why_not_deeper}"] if one.why_not_deeper else [line]
