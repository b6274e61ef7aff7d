"""Scripts that are too long for an argument: bash gets them in a memory file.

Linux takes at most 128 KiB in one argument (``MAX_ARG_STRLEN``, execve(2)); clients write whole files by ``bash -c "cat > f <<'EOF' …"``.
A longer script of ``bash -c`` goes into a memory file. Bash reads that file, closes it and evaluates its content. ``$0``, the arguments,
standard input, ``$BASH_EXECUTION_STRING`` and all descriptors are the same as for a short script. Only the message of a syntax error
differs: it says ``eval`` instead of ``-c``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import PurePath

from cloister.errors import InvalidRequestError

__all__ = ["MAX_ARGUMENT_BYTES", "MAX_SCRIPT_BYTES", "find_script", "shorten", "size_of", "to_memory"]

MAX_ARGUMENT_BYTES = (128 << 10) - 1
"""Bound of one argument, and of one variable as ``NAME=value``, without the terminating byte."""
MAX_SCRIPT_BYTES = 16 << 20
_FIRST_FD = 100
"""Scripts themselves use small numbers, and bash keeps its own descriptors from 10 on and at 255."""
_SHOWN = 200
_READ = "IFS= read -r -d '' -u {fd} BASH_EXECUTION_STRING || :; exec {fd}<&-; eval \"$BASH_EXECUTION_STRING\" # {shown}"
_WITH_VALUE = frozenset(("--init-file", "--rcfile"))


def size_of(text: str) -> int:
    """``text`` as the bytes that a program gets.

    Raises: InvalidRequestError: it has characters that no program can be given.
    """
    try:
        return len(os.fsencode(text))
    except UnicodeEncodeError:
        raise InvalidRequestError("the command, or one of its variables, is not valid Unicode") from None


def find_script(argv: Sequence[str]) -> int | None:
    """The position of a ``bash -c`` script in ``argv``, or None if this is no such command. Source: bash(1), OPTIONS."""
    if PurePath(argv[0]).name != "bash":
        return None
    is_script, place = False, 1
    while place < len(argv) and argv[place][:1] in ("-", "+") and argv[place] not in ("-", "--"):
        word = argv[place]
        if word in _WITH_VALUE or (not word.startswith("--") and word[-1:] in ("o", "O")):
            place += 1
        is_script = is_script or (word[0] == "-" and word[:2] != "--" and "c" in word)
        place += 1
    if place < len(argv) and argv[place] in ("-", "--"):
        place += 1
    return place if is_script and place < len(argv) else None


def to_memory(script: str) -> tuple[int, str]:
    """A descriptor of a memory file with ``script``, to be inherited under its number, and the short script that evaluates it.

    The caller closes the descriptor.

    Raises: InvalidRequestError (too long), OSError.
    """
    if (size := size_of(script)) > MAX_SCRIPT_BYTES:
        raise InvalidRequestError(f"the command has {size} bytes; it may have at most {MAX_SCRIPT_BYTES}: write a file and run that")
    made = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        with open(made, "wb", closefd=False) as file:
            file.write(os.fsencode(script))
        os.lseek(made, 0, os.SEEK_SET)
        fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    finally:
        os.close(made)
    return fd, _READ.format(fd=fd, shown=shorten(script))


def shorten(script: str) -> str:
    """The beginning of ``script`` in one line, for lists of processes."""
    line = script[:_SHOWN].partition("\n")[0]
    return "".join(character if character.isprintable() else " " for character in line) + " …"
