"""Entry point of a build operation: ``main.py <operation>``, inside a build sandbox, as its root, on the agent's own interpreter.

An operation is a module beside this one with a function ``run(params: dict) -> dict``. The parameters are one JSON object on standard
input. The answer is one JSON object on standard output: ``{"result": {...}}`` with exit status 0, or ``{"error": "…"}`` with 1.
Standard error goes into the build's log, and with it the standard output of programs that an operation starts.

Operations use the standard library and the agent's own modules, and nothing of the image: no shell, no C library, no list of users. The
host does not trust their answers: it checks the form of each result.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

_SITE = Path(__file__).resolve().parents[3]
if str(_SITE) not in sys.path:
    sys.path.insert(0, str(_SITE))

from cloister.errors import CloisterError, InvalidRequestError  # noqa: E402 - found by the lines above

__all__ = ["main", "perform"]

_NO_OPERATIONS = ("main", "__init__")


def perform(operation: str, params: dict[str, Any]) -> dict[str, Any]:
    """What the operation returns for ``params``.

    Raises: InvalidRequestError: there is no such operation; whatever the operation raises.
    """
    known = operation.isidentifier() and operation not in _NO_OPERATIONS and Path(__file__).with_name(f"{operation}.py").is_file()
    run = getattr(importlib.import_module(f"cloister.agent.build.{operation}"), "run", None) if known else None
    if run is None:
        raise InvalidRequestError(f"there is no build operation '{operation}'")
    result: dict[str, Any] = run(params)
    return result


def main(argv: list[str]) -> int:
    """Read, perform, answer. Gives the exit status."""
    answer = _take_stdout()
    os.umask(0o022)
    document: dict[str, Any]
    try:
        document = {"result": perform(argv[0] if argv else "", json.load(sys.stdin.buffer))}
    except CloisterError as error:
        document = {"error": str(error)}
    except OSError as error:
        document = {"error": _told(error)}
    except Exception as error:  # noqa: BLE001 - the process ends here, and the other side waits for an object
        traceback.print_exc()
        document = {"error": f"internal error: {error or type(error).__name__}"}
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        json.dump(document, file)
    return 0 if "result" in document else 1


def _take_stdout() -> int:
    """A descriptor of standard output for the answer alone; from here on, standard output is standard error for all others."""
    answer = os.dup(1)  # programs do not inherit it
    os.dup2(2, 1)
    return answer


def _told(error: OSError) -> str:
    """The error in words for the user; a full disk is named."""
    reason = (error.strerror or str(error)).lower()
    paths = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{paths}: {reason}" if paths else reason


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
