"""Errors of starting a program: maps an errno to one of our errors. No other module does this.

A fault of the request (the command, its arguments, variables, directory) is an invalid argument, which no client retries. A fault that
passes when other programs end is a limit. Every other one is a fault of the sandbox.
"""

from __future__ import annotations

import errno
import resource
import stat
from pathlib import Path

from cloister import errors

__all__ = ["check_cwd", "start_fault"]

_SHOWN = 500
_TOTAL_AT_MOST = 6 << 20
_TOTAL_AT_LEAST = 128 << 10
"""Bounds for arguments and variables together; between them the bound is a quarter of the stack's limit. Source: execve(2)."""
_NO_PROCESS = "cannot start another process: the sandbox is at its limit of processes or threads"
_NO_MEMORY = "cannot start another process: the sandbox is short of memory"
_NO_FILES = "cannot start another process: too many files are open"
_NO_TERMINAL = "cannot start another process: no terminal is left"

_INVALID, _LIMIT, _CONFLICT = errors.InvalidRequestError, errors.LimitError, errors.ConflictError
_START: dict[int, tuple[type[errors.CloisterError], str]] = {
    errno.E2BIG: (_INVALID, "the command is too long: its arguments and variables may have at most {total} bytes together"),
    errno.ENOENT: (_INVALID, "cannot run '{command}': no such file or directory (the program, or the interpreter that it names)"),
    errno.EACCES: (_INVALID, "cannot run '{command}': permission denied (it is no executable file, or the user may not reach it)"),
    errno.EPERM: (_INVALID, "cannot run '{command}': operation not permitted"),
    errno.ENOTDIR: (_INVALID, "cannot run '{command}': not a directory (its path leads through something that is not one)"),
    errno.EISDIR: (_INVALID, "cannot run '{command}': is a directory (the program, or the interpreter that it names)"),
    errno.ELOOP: (_INVALID, "cannot run '{command}': too many levels of symbolic links, or of interpreters"),
    errno.ENAMETOOLONG: (_INVALID, "cannot run '{command}': file name too long (a name has at most 255 bytes, a path 4,095)"),
    errno.ENOEXEC: (_INVALID, "cannot run '{command}': exec format error (a script without '#!', or made for another processor)"),
    errno.ELIBBAD: (_INVALID, "cannot run '{command}': its ELF interpreter is damaged"),
    errno.EINVAL: (_INVALID, "cannot run '{command}': invalid argument (the program file is damaged)"),
    errno.ETXTBSY: (_CONFLICT, "cannot run '{command}': the file is open for writing; try again when it is closed"),
    errno.EAGAIN: (_LIMIT, _NO_PROCESS),
    errno.EUSERS: (_LIMIT, _NO_PROCESS),
    errno.ENOMEM: (_LIMIT, _NO_MEMORY),
    errno.EMFILE: (_LIMIT, _NO_FILES),
    errno.ENFILE: (_LIMIT, _NO_FILES),
    errno.ENOSPC: (_LIMIT, _NO_TERMINAL),
}
_CWD: dict[int, str] = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "is not a directory",
    errno.EACCES: "cannot be entered: permission denied",
    errno.EPERM: "cannot be entered: operation not permitted",
    errno.ELOOP: "leads through too many symbolic links",
    errno.ENAMETOOLONG: "is too long: a name has at most 255 bytes, a path 4,095",
    errno.EINVAL: "is not a possible path",
}


def start_fault(error: OSError, command: str, cwd: str) -> errors.CloisterError:
    """Our error for ``error``, which occurred when ``command`` was started in ``cwd``."""
    if error.filename == cwd and error.filename != command:
        return _cwd_fault(error, cwd)
    if error.errno == errno.ENOENT and "/" not in command:
        return _INVALID(f"cannot run '{_shown(command)}': there is no such command in PATH")
    kind, text = _START.get(error.errno or 0, (errors.InternalError, "cannot run '{command}': {reason}"))
    return kind(text.format(command=_shown(command), total=_most_in_all(), reason=error.strerror or str(error)))


def check_cwd(cwd: str) -> None:
    """Check that ``cwd`` is a directory.

    Raises: InvalidRequestError (it is none), LimitError, InternalError.
    """
    try:
        is_directory = stat.S_ISDIR(Path(cwd).stat().st_mode)
    except OSError as error:
        raise _cwd_fault(error, cwd) from None
    except ValueError:  # it holds a NUL, or a character that no file system can encode
        raise _cwd_fault(OSError(errno.EINVAL, ""), cwd) from None
    if not is_directory:
        raise _cwd_fault(OSError(errno.ENOTDIR, ""), cwd)


def _cwd_fault(error: OSError, cwd: str) -> errors.CloisterError:
    if error.errno in _CWD:
        return _INVALID(f"cwd '{_shown(cwd)}' {_CWD[error.errno]}")
    kind = _START.get(error.errno or 0, (errors.InternalError, ""))[0]
    return kind(f"cwd '{_shown(cwd)}' cannot be entered: {error.strerror or error}")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _most_in_all() -> int:
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _TOTAL_AT_MOST if stack == resource.RLIM_INFINITY else min(max(stack // 4, _TOTAL_AT_LEAST), _TOTAL_AT_MOST)
