"""The command line: ``mcp-gateway pull NAME...``, ``mcp-gateway --config JSON`` and ``mcp-gateway list``.

``--config`` returns when every server answers and the gateway listens, and leaves it running; else it says on standard error what is
wrong, leaves nothing running and ends with 1. It imports none of the gateway's libraries, which would only make it slower.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from mcp_gateway.catalog import GatewayError, Plan
from mcp_gateway.settings import LOG_DIR, PID_FILE, ROOT, TOKEN_FILE, installer, table

__all__ = ["main"]

_AT_ONCE = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit code."""
    parser = argparse.ArgumentParser(prog="mcp-gateway", description="MCP servers of this sandbox behind one address")
    parser.add_argument("--config", metavar="JSON", help="start these servers: {name: {field: value}}")
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("pull", help="install servers ahead").add_argument("names", nargs="+", metavar="NAME")
    actions.add_parser("list", help="the servers that are known by name")
    args = parser.parse_args(argv)
    try:
        if args.action == "list":
            print("\n".join(table().names))
        elif args.action == "pull":
            _install(table().pulls(args.names))
        elif args.config is not None:
            _start(args.config)
        else:
            parser.error("--config JSON, pull or list")
    except GatewayError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _install(plans: Sequence[Plan]) -> None:
    """Every one that is not there yet, several at once. Raises: GatewayError, with all that failed."""
    tool = installer()
    missing = [plan for plan in plans if not tool.ready(plan)]
    failures = []
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        for future in concurrent.futures.as_completed([threads.submit(tool.install, plan) for plan in missing]):
            with contextlib.suppress(GatewayError):
                future.result()
            if (error := future.exception()) is not None:
                failures.append(str(error))
    if failures:
        raise GatewayError("\n".join(failures))


def _start(text: str) -> None:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise GatewayError(f"the configuration is not JSON: {error}") from error
    _install(table().plans(config))
    _stop_former()
    token = os.environ.get("GATEWAY_ACCESS_TOKEN") or str(uuid.uuid4())
    LOG_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if name != "GATEWAY_ACCESS_TOKEN"}
    with (LOG_DIR / "gateway.log").open("a") as log:
        child = subprocess.Popen(
            (sys.executable, "-m", "mcp_gateway.serve"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environ, cwd="/", start_new_session=True, text=True,
        )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps({"config": config, "token": token}))
        child.stdin.close()
    answer = child.stdout.read().strip()
    if answer != "ready":
        child.wait()
        raise GatewayError(answer or f"the gateway ended with {child.returncode}; its log is {LOG_DIR / 'gateway.log'}")
    _write_secret(TOKEN_FILE, token)
    PID_FILE.write_text(str(child.pid))


def _stop_former() -> None:
    """End the gateway that an earlier call started: a second configuration takes the place of the first."""
    try:
        pid = int(PID_FILE.read_text())
        if str(ROOT).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        os.kill(pid, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
