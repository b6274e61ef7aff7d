"""Errors of the content API: a status, a code of the contract, and a message. Translates the kernel's errors."""

from __future__ import annotations

import errno

__all__ = ["ContentFault", "fault_of"]

_FULL = "the volume is full"
_OF_KERNEL: dict[int, tuple[int, str, str]] = {
    errno.ENOENT: (404, "PATH_NOT_FOUND", "path not found"),
    errno.EEXIST: (409, "PATH_ALREADY_EXISTS", "path already exists"),
    errno.ENOTDIR: (400, "INVALID_REQUEST", "a part of the path is not a directory"),
    errno.EISDIR: (400, "INVALID_REQUEST", "the path is a directory"),
    errno.ELOOP: (400, "INVALID_REQUEST", "the path has too many links"),
    errno.ENAMETOOLONG: (400, "INVALID_REQUEST", "the path or a name in it is too long"),
    errno.EINVAL: (400, "INVALID_REQUEST", "the file system refuses a value of the request"),
    errno.EXDEV: (400, "INVALID_REQUEST", "the path leads out of the volume"),
    errno.ENOSPC: (507, "VOLUME_FULL", _FULL),
    errno.EDQUOT: (507, "VOLUME_FULL", _FULL),
    errno.EFBIG: (507, "VOLUME_FULL", "the file is too large for the volume"),
    errno.EROFS: (503, "VOLUME_READ_ONLY", "the volume cannot be written now, because its disk has failed"),
    errno.EPERM: (403, "NOT_PERMITTED", "the file cannot be changed"),
    errno.EACCES: (403, "NOT_PERMITTED", "the file cannot be changed"),
    errno.EBUSY: (409, "BUSY", "the path is in use"),
    errno.ENOTEMPTY: (409, "BUSY", "the directory was changed meanwhile"),
}


class ContentFault(Exception):  # noqa: N818 - as the kernel's errors it is no fault of the program
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def fault_of(error: OSError, path: str) -> ContentFault:
    """The answer for an error of the kernel."""
    status, code, message = _OF_KERNEL.get(error.errno or 0, (500, "UNKNOWN", f"the file system failed: {error.strerror}"))
    return ContentFault(status, code, f"{message}: {path}")
