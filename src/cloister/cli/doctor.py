"""``cloister doctor``: checks this host and prints remedies. It tries everything that ``serve`` needs, with the settings of ``serve``.

Leaves no changes. Exit codes: 0 sandboxes can run here, perhaps with warnings; 1 they cannot; 2 the settings cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os

from cloister.cli.tryout import try_serving
from cloister.config.load import add_arguments, load
from cloister.node.checkup import Finding, Level, check_host

__all__ = ["add_options", "run"]

_MARKS = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL", Level.ABSENT: "--  "}
_INDENT = " " * 24


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    settings = load(args, os.environ)
    findings = [*check_host(settings), *try_serving(settings, os.environ)]
    broken = [finding for finding in findings if finding.level is Level.FAIL]
    warned = [finding for finding in findings if finding.level is Level.WARN]
    if args.json:
        print(json.dumps({"namespace_runtime": not broken, "findings": [finding.to_json() for finding in findings]}, indent=1))
        return int(bool(broken))
    for finding in findings:
        print(_told(finding))
    if broken:
        print(f"\nSandboxes cannot run here yet: {', '.join(dict.fromkeys(f.name for f in broken))}.")
    else:
        print("\nThe namespace runtime works here." + (f" Look at: {', '.join(dict.fromkeys(f.name for f in warned))}." if warned else ""))
    return int(bool(broken))


def _told(finding: Finding) -> str:
    remedy = f"\n{_INDENT}-> {finding.remedy}" if finding.remedy and finding.level is not Level.OK else ""
    return f"{_MARKS[finding.level]} {finding.name:<18} {finding.detail}{remedy}"
