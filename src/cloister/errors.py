"""The project's whole exception tree. It knows nothing of HTTP; borders translate it once.

::

    CloisterError (code, message, hint)
      InvalidRequestError   InvalidArchiveError TooLargeError
      AuthenticationError   PermissionDeniedError   DeadlineError
      BuildError (step, log_tail)
      NotFoundError         SandboxNotFoundError TemplateNotFoundError SnapshotNotFoundError ContextNotFoundError
      ConflictError         InvalidTransitionError AlreadyExistsError
      LimitError            QuotaExceededError RateLimitedError NoCapacityError (StorageFullError)
      UnavailableError      NodeUnreachableError AgentUnreachableError
      StartFailedError
      InternalError         IsolationError (step, errno, path) RuntimeFailedError StoreError

``code`` names the fault in snake case and is stable: it crosses process borders, so that the
exception raised in the supervisor is raised again, by :func:`from_code`, in the API process.
"""

from __future__ import annotations

__all__ = [
    "AgentUnreachableError",
    "AlreadyExistsError",
    "AuthenticationError",
    "BuildError",
    "CloisterError",
    "ConflictError",
    "ContextNotFoundError",
    "DeadlineError",
    "InternalError",
    "InvalidArchiveError",
    "InvalidRequestError",
    "InvalidTransitionError",
    "IsolationError",
    "LimitError",
    "NoCapacityError",
    "NodeUnreachableError",
    "NotFoundError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitedError",
    "RuntimeFailedError",
    "SandboxNotFoundError",
    "SnapshotNotFoundError",
    "StartFailedError",
    "StorageFullError",
    "StoreError",
    "TemplateNotFoundError",
    "TooLargeError",
    "UnavailableError",
    "from_code",
]


class CloisterError(Exception):
    """A fault with a stable code, a message for a person and, when there is one, a remedy."""

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequestError(CloisterError):
    """The request is malformed, or asks for something that is not built."""

    code = "invalid_request"


class InvalidArchiveError(InvalidRequestError):
    """An uploaded archive is broken, or holds what must not be in one."""

    code = "invalid_archive"


class TooLargeError(InvalidRequestError):
    """What was sent is larger than the server takes."""

    code = "too_large"


class AuthenticationError(CloisterError):
    """No credential, or a wrong one."""

    code = "unauthenticated"


class PermissionDeniedError(CloisterError):
    """A known caller asks for what it may not have."""

    code = "permission_denied"


class DeadlineError(CloisterError):
    """Something did not finish in the time it was given."""

    code = "deadline_exceeded"


class BuildError(CloisterError):
    """A template build failed; ``step`` names where, ``log_tail`` holds the last lines of its log."""

    code = "build_failed"

    def __init__(self, message: str, *, step: str = "", log_tail: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.log_tail = log_tail


class NotFoundError(CloisterError):
    """Something named in a request does not exist, or is not the caller's to see."""

    code = "not_found"


class SandboxNotFoundError(NotFoundError):
    """No live sandbox of that id."""

    code = "sandbox_not_found"


class TemplateNotFoundError(NotFoundError):
    """No template of that id, name or tag."""

    code = "template_not_found"


class SnapshotNotFoundError(NotFoundError):
    """No snapshot of that id."""

    code = "snapshot_not_found"


class ContextNotFoundError(NotFoundError):
    """No interpreter context of that id."""

    code = "context_not_found"


class ConflictError(CloisterError):
    """The request does not fit the present state."""

    code = "conflict"


class InvalidTransitionError(ConflictError):
    """A state change that the state table does not allow."""

    code = "invalid_transition"


class AlreadyExistsError(ConflictError):
    """A thing of that name is there already."""

    code = "already_exists"


class LimitError(CloisterError):
    """A bound was met."""

    code = "limit_reached"


class QuotaExceededError(LimitError):
    """A team's bound was met."""

    code = "quota_exceeded"


class RateLimitedError(LimitError):
    """Too many requests for now."""

    code = "rate_limited"


class NoCapacityError(LimitError):
    """The machine has no room for one more."""

    code = "no_capacity"


class StorageFullError(NoCapacityError):
    """There is no room to keep what was sent."""

    code = "storage_full"


class UnavailableError(CloisterError):
    """A part that is needed does not answer now."""

    code = "unavailable"


class NodeUnreachableError(UnavailableError):
    """The node supervisor does not answer."""

    code = "node_unreachable"


class AgentUnreachableError(UnavailableError):
    """The agent of a live sandbox does not answer."""

    code = "agent_unreachable"


class StartFailedError(CloisterError):
    """What a template starts in its sandboxes did not come up: the template's own fault, or the load's, not the request's."""

    code = "start_failed"


class InternalError(CloisterError):
    """A fault of ours."""

    code = "internal"


class IsolationError(InternalError):
    """A hardening step could not be applied, so the sandbox was not made (fail closed)."""

    code = "isolation_failed"

    def __init__(self, message: str, *, step: str = "", errno: int = 0, path: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.errno = errno
        self.path = path


class RuntimeFailedError(InternalError):
    """A runtime could not do what it was asked to."""

    code = "runtime_failed"


class StoreError(InternalError):
    """The store refused or failed."""

    code = "store_failed"


def _tree(cls: type[CloisterError]) -> dict[str, type[CloisterError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found.update(_tree(child))
    return found


def from_code(code: str, message: str, hint: str | None = None) -> CloisterError:
    """The exception that ``code`` names; an unknown code gives :class:`InternalError`."""
    return _tree(CloisterError).get(code, InternalError)(message, hint=hint)
