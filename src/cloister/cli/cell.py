"""Runs code as a cell of the code interpreter: prints its output and results, saves its results, and says how it went by an exit code."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cloister.client.sandbox import SandboxClient
from cloister.errors import UnavailableError

__all__ = ["result_files", "run_cell"]

_EXIT_STATUS = re.compile(r"(?:exit code )?(\d{1,9})", re.ASCII)
_TEXTS = {"html": "html", "markdown": "md", "svg": "svg", "latex": "tex", "javascript": "js"}
_TREES = {"json": "json", "data": "data.json", "chart": "chart.json"}
_BYTES = {"png": "png", "jpeg": "jpg", "pdf": "pdf"}
"""Fields of a result, and the endings of their files."""


async def run_cell(sandbox: SandboxClient, body: Mapping[str, Any], save: Path | None) -> int:
    """Run the code of ``body``, a request for ``/execute``; write results as ``result-N.png`` and so on to ``save``.

    Raises: UnavailableError: the run was cut off.
    """
    code, ended, results = 0, False, 0
    async with contextlib.aclosing(sandbox.execute(body)) as events:
        async for event in events:
            ended = ended or event.get("type") == "end_of_execution"
            code = max(code, _print_event(event))
            if event.get("type") == "result" and save is not None:
                files = list(result_files(event))
                results += bool(files)
                for ending, data in files:
                    (save / f"result-{results}.{ending}").write_bytes(data)
    if not ended:
        raise UnavailableError("the connection was closed, but the sandbox is alive")
    return code


def result_files(event: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The endings and contents of the files that a ``result`` event makes. Fields that are not as published make none."""
    for name, ending in _TEXTS.items():
        if isinstance(event.get(name), str):
            yield ending, event[name].encode(errors="replace")
    for name, ending in _TREES.items():
        if event.get(name) is not None:
            yield ending, json.dumps(event[name], indent=1).encode()
    for name, ending in _BYTES.items():
        if isinstance(event.get(name), str):
            with contextlib.suppress(binascii.Error, ValueError):
                yield ending, base64.b64decode("".join(event[name].split()), validate=True)


def _print_event(event: Mapping[str, Any]) -> int:
    match event.get("type"):
        case "stdout":
            print(event.get("text", ""), end="", flush=True)
        case "stderr":
            print(event.get("text", ""), end="", file=sys.stderr, flush=True)
        case "result" if event.get("text"):
            print(event["text"], flush=True)
        case "error" if event.get("name") in ("SystemExit", "ExitStatus") and (status := _EXIT_STATUS.fullmatch(str(event.get("value")))):
            return int(status[1]) & 0xFF
        case "error":
            print(event.get("traceback") or f"{event.get('name')}: {event.get('value')}", file=sys.stderr, flush=True)
            return 1
        case _:
            pass
    return 0
