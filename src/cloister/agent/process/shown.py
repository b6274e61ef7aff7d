"""The form of a command in the sandbox's log: short, on one line, without passwords and values of variables. Pure.

The log is the team's own, but it outlives the sandbox. A command's environment and input are never logged. In its text, secrets are hidden
where their form shows: user information in URLs, values of upper-case variables, and values of names such as ``password``. It hides too
much rather than too little: a value includes the quoted parts that follow it directly.
"""

from __future__ import annotations

import re
import shlex

from cloister.protocol.process import ProcessConfig

__all__ = ["shown_command"]

_MAX_CHARACTERS = 200
_READ_CHARACTERS = 4_000
"""Longest part of a command that is looked at, so that a long one costs no more than a short one."""
_USER_INFO = re.compile(r"(?<=://)[^/@\s]{1,1000}@")
_NAME = r"[A-Z][A-Z0-9_]*|\w*(?i:password|passwd|token|secret|api[_-]?key)\w*"
_VALUE = re.compile(rf"""\b({_NAME})=(?:"[^"]*"?|'[^']*'?|[^\s"';|&]+)+""")
_SHELL_OPTIONS = re.compile(r"-[il]*c\Z|--login\Z|-[il]+\Z")


def shown_command(config: ProcessConfig) -> str:
    """The text that a shell runs, or the program and its arguments."""
    words = [config.cmd, *config.args]
    options = [word for word in config.args[:-1] if _SHELL_OPTIONS.match(word)]
    is_shell = config.cmd.endswith("sh") and len(options) == len(config.args) - 1 and any(word.endswith("c") for word in options)
    text = words[-1] if is_shell else shlex.join(words)
    text = " ".join(_USER_INFO.sub("…@", _VALUE.sub(r"\1=…", text[:_READ_CHARACTERS])).split())
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"
