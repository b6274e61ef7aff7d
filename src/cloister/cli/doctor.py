"""``cloister doctor``: says what this host can and cannot do, with the remedy. Exit code 1 when sandboxes cannot run here."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict

from cloister.config.load import add_arguments, load
from cloister.node.checkup import check_host

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("doctor", help="check what this host can do, and say how to mend what it cannot")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser, "data_dir", "store_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    findings = check_host(load(args, os.environ))
    broken = [finding for finding in findings if finding.needed and not finding.ok]
    if args.json:
        print(json.dumps({"namespace_runtime": not broken, "findings": [asdict(finding) for finding in findings]}, indent=1))
        return int(bool(broken))
    for finding in findings:
        mark = "ok  " if finding.ok else ("FAIL" if finding.needed else "--  ")
        print(
            f"{mark} {finding.name:<18} {finding.detail}"
            + (f"\n     {'':<18} -> {finding.remedy}" if not finding.ok and finding.remedy else "")
        )
    print("\nThe namespace runtime works here." if not broken else f"\nSandboxes cannot run here yet: {', '.join(f.name for f in broken)}.")
    return int(bool(broken))
