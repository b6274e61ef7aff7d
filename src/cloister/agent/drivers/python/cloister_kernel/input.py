"""Questions to the user, who cannot answer: ``input()``, ``getpass.getpass()`` and the debuggers fail at once with a remedy."""

from __future__ import annotations

import builtins
import os
import sys
from types import TracebackType
from typing import Any

from IPython.core.error import StdinNotImplementedError

__all__ = ["INPUT_EXTENSIONS", "NoInputError", "forbid_input", "without_askers"]

_ASKERS = ("bdb.py", "cmd.py", "getpass.py", "pdb.py", os.path.join("IPython", "core", "debugger.py"))
"""Files whose frames are between the user's call and the error."""
_DRIVER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class NoInputError(StdinNotImplementedError, EOFError):  # type: ignore[misc]  # its base has no types
    """Jupyter's error for a frontend without input. Programs that handle the end of their input catch it, too."""


NoInputError.__name__ = NoInputError.__qualname__ = "StdinNotImplementedError"
NoInputError.__module__ = StdinNotImplementedError.__module__


def _no_input(prompt: object = "", /) -> str:
    print(prompt, end="", flush=True)
    raise NoInputError("input() was called, but no one can answer: code runs without standard input. Set the value in the code instead.")


def _no_password(prompt: str = "Password: ", stream: Any = None, **options: Any) -> str:
    raise NoInputError(
        "getpass() was called, but no one can answer: code runs without standard input. Pass the secret as an environment variable instead."
    )


def _extend_getpass(module: Any) -> None:
    module.getpass = _no_password


def _extend_pdb(module: Any) -> None:
    interaction = module.Pdb.interaction

    def interaction_with_someone(self: Any, *args: Any, **options: Any) -> Any:
        if self.use_rawinput:
            self.reset()
            sys.settrace(None)
            raise NoInputError(
                "The debugger was started, but no one can answer: code runs without standard input. "
                "Print the values, or give the debugger its commands: pdb.Pdb(stdin=io.StringIO(...), stdout=sys.stdout)."
            )
        return interaction(self, *args, **options)

    module.Pdb.interaction = interaction_with_someone


INPUT_EXTENSIONS = {"getpass": _extend_getpass, "pdb": _extend_pdb}
"""Modules that are extended when user code imports them."""


def forbid_input() -> None:
    """Make ``input`` fail, and the debugger if it is loaded already."""
    builtins.input = _no_input
    pdb: Any = sys.modules.get("pdb")
    if pdb is not None and pdb.Pdb.interaction.__module__ != __name__:
        _extend_pdb(pdb)


def without_askers(tb: TracebackType | None) -> TracebackType | None:
    """The traceback up to the call that asked."""
    kept = []
    while tb is not None:
        kept.append(tb)
        tb = tb.tb_next
    while kept and _asks(kept[-1].tb_frame.f_code.co_filename):
        kept.pop()
    result = None
    for one in reversed(kept):
        result = TracebackType(result, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return result


def _asks(path: str) -> bool:
    return path.startswith(_DRIVER) or path.endswith(tuple(os.sep + name for name in _ASKERS))
