"""Errors of file operations: maps an errno to one of our errors. No other module does this.

A fault of the request is never a limit, since clients wait and retry after one. An errno that is not listed is a fault of the sandbox.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from cloister import errors

__all__ = ["fault_of", "faults"]

_FULL = "not enough disk space available in the sandbox (its disk, or its number of files, is full)"
_MEANINGS: dict[int, tuple[type[errors.CloisterError], str]] = {
    errno.ENOENT: (errors.NotFoundError, "path '{path}' does not exist"),
    errno.EACCES: (errors.PermissionDeniedError, "permission denied: '{path}'"),
    errno.EPERM: (errors.PermissionDeniedError, "permission denied: '{path}'"),
    errno.EROFS: (errors.PermissionDeniedError, "'{path}' is on a read-only file system"),
    errno.EISDIR: (errors.InvalidRequestError, "path '{path}' is a directory"),
    errno.ENOTDIR: (errors.InvalidRequestError, "path '{path}' is not a directory, or leads through something that is not one"),
    errno.ENAMETOOLONG: (errors.InvalidRequestError, "the path is too long: {length} bytes; a name has at most 255, a path 4,095"),
    errno.ELOOP: (errors.InvalidRequestError, "path '{path}' leads through too many symbolic links"),
    errno.EINVAL: (errors.InvalidRequestError, "path '{path}' cannot be used for this"),
    errno.ENXIO: (errors.InvalidRequestError, "path '{path}' is a pipe or device that nothing serves, or a socket"),
    errno.ENODEV: (errors.InvalidRequestError, "path '{path}' is a device that does not exist, or cannot do this"),
    errno.ENOTBLK: (errors.InvalidRequestError, "path '{path}' is no block device"),
    errno.ENOTTY: (errors.InvalidRequestError, "path '{path}' cannot be used for this"),
    errno.ESPIPE: (errors.InvalidRequestError, "path '{path}' is a pipe or device, which has no positions"),
    errno.EILSEQ: (errors.InvalidRequestError, "the file system of '{path}' cannot hold this name"),
    errno.EOVERFLOW: (errors.InvalidRequestError, "the file '{path}' is larger than this system can tell"),
    errno.EFBIG: (errors.InvalidRequestError, "the file '{path}' would be larger than its file system takes"),
    errno.EOPNOTSUPP: (errors.InvalidRequestError, "the file system of '{path}' does not support this"),
    errno.EEXIST: (errors.AlreadyExistsError, "path '{path}' already exists"),
    errno.ENOTEMPTY: (errors.ConflictError, "directory '{path}' is not empty"),
    errno.EBUSY: (errors.ConflictError, "path '{path}' is in use"),
    errno.ETXTBSY: (errors.ConflictError, "the program '{path}' is running"),
    errno.EMLINK: (errors.ConflictError, "path '{path}' has as many links as its file system takes"),
    errno.EDEADLK: (errors.ConflictError, "path '{path}' is locked"),
    errno.ESTALE: (errors.ConflictError, "path '{path}' is on a network file system that has replaced it"),
    errno.EXDEV: (errors.ConflictError, "path '{path}' is on another file system"),
    errno.ENOSPC: (errors.StorageFullError, _FULL),
    errno.EDQUOT: (errors.StorageFullError, _FULL),
    errno.EMFILE: (errors.LimitError, "the agent has too many files open"),
    errno.ENFILE: (errors.LimitError, "the machine has too many files open"),
    errno.ENOMEM: (errors.LimitError, "the sandbox is short of memory"),
    errno.EAGAIN: (errors.LimitError, "path '{path}' is in use, or the sandbox is at its limit of processes"),
    errno.ENOLCK: (errors.LimitError, "no lock is left for '{path}'"),
    errno.ETIMEDOUT: (errors.DeadlineError, "the file system of '{path}' did not answer in time"),
}
_SHOWN = 500


def fault_of(error: OSError, path: str) -> errors.CloisterError:
    """Our error for ``error``, which occurred on ``path``."""
    shown = path if len(path) <= _SHOWN else path[:_SHOWN] + "…"
    kind, text = _MEANINGS.get(error.errno or 0, (errors.InternalError, "error working on '{path}': {reason}"))
    return kind(text.format(path=shown, length=len(path.encode(errors="replace")), reason=error.strerror or str(error)))


@contextlib.contextmanager
def faults(path: str) -> Iterator[None]:
    """Turn the kernel's errors about ``path`` into ours."""
    try:
        yield
    except OSError as error:
        raise fault_of(error, path) from error
    except UnicodeEncodeError:
        raise errors.InvalidRequestError("the path is not valid Unicode") from None
