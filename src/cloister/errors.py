"""All exceptions of the project. They contain no HTTP status; each border translates them once.

::

    CloisterError (code, message, hint)
      InvalidRequestError   InvalidArchiveError TooLargeError SettingsError (faults)
      AuthenticationError   PermissionDeniedError   DeadlineError
      BuildError (step, log_tail)
      NotFoundError         SandboxNotFoundError TemplateNotFoundError ContextNotFoundError SecretNotFoundError
      ConflictError         InvalidTransitionError (from_state, to_state) AlreadyExistsError StartInFlightError AgentSilentAtPauseError
                            SecretLimitError
      LimitError            QuotaExceededError RateLimitedError (TooManyFailuresError)
                            NoCapacityError (StorageFullError)
      UnavailableError      NodeUnreachableError AgentUnreachableError (AgentSilentError)
      StartFailedError
      InternalError         IsolationError (step, errno, path) RuntimeFailedError
                            StoreError (UnusableStateError StoreUnreachableError)

``code`` names the fault in snake case and never changes. It crosses process borders: :func:`from_code` raises an exception of the
supervisor again in the api process.
"""

from __future__ import annotations

__all__ = [
    "AgentSilentAtPauseError",
    "AgentSilentError",
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
    "SecretLimitError",
    "SecretNotFoundError",
    "SettingsError",
    "StartFailedError",
    "StartInFlightError",
    "StorageFullError",
    "StoreError",
    "StoreUnreachableError",
    "TemplateNotFoundError",
    "TooLargeError",
    "TooManyFailuresError",
    "UnavailableError",
    "UnusableStateError",
    "from_code",
]


class CloisterError(Exception):
    """A fault: a stable code, a message for people and, if one is known, a remedy (``hint``)."""

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequestError(CloisterError):
    """The request is malformed, or asks for a feature that does not exist."""

    code = "invalid_request"


class InvalidArchiveError(InvalidRequestError):
    """An uploaded archive is damaged or has a forbidden entry."""

    code = "invalid_archive"


class TooLargeError(InvalidRequestError):
    """The request is larger than the server accepts."""

    code = "too_large"


class SettingsError(InvalidRequestError):
    """Settings are wrong. ``faults`` has one line for each fault: ``setting NAME: cause; remedy``."""

    code = "invalid_settings"

    def __init__(self, message: str, *more: str, hint: str | None = None) -> None:
        self.faults = (f"{message} ({hint})" if hint else message, *more)
        super().__init__("\n".join(self.faults))


class AuthenticationError(CloisterError):
    """No credential, or a wrong one."""

    code = "unauthenticated"


class PermissionDeniedError(CloisterError):
    """The caller is known, but not allowed to do this."""

    code = "permission_denied"


class DeadlineError(CloisterError):
    """An operation did not finish within its time limit."""

    code = "deadline_exceeded"


class BuildError(CloisterError):
    """A template build failed in ``step``; ``log_tail`` has the last lines of its log."""

    code = "build_failed"

    def __init__(self, message: str, *, step: str = "", log_tail: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.log_tail = log_tail


class NotFoundError(CloisterError):
    """An object named in a request does not exist, or the caller may not see it."""

    code = "not_found"


class SandboxNotFoundError(NotFoundError):
    """No live sandbox has that id."""

    code = "sandbox_not_found"


class TemplateNotFoundError(NotFoundError):
    """No template has that id, name or tag."""

    code = "template_not_found"


class ContextNotFoundError(NotFoundError):
    """No interpreter context has that id."""

    code = "context_not_found"


class SecretNotFoundError(NotFoundError):
    """The team has no secret of that id or name."""

    code = "secret_not_found"


class ConflictError(CloisterError):
    """The current state does not allow the request."""

    code = "conflict"


class InvalidTransitionError(ConflictError):
    """A change of state that the state table does not allow (``model/sandbox.py``). The message names both states."""

    code = "invalid_transition"

    def __init__(self, message: str, *, from_state: str = "", to_state: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.from_state = from_state
        self.to_state = to_state


class AlreadyExistsError(ConflictError):
    """An object of that name exists already."""

    code = "already_exists"


class StartInFlightError(ConflictError):
    """A resume with another choice is under way: the sandbox goes on with its memory, or it is started anew."""

    code = "sandbox_start_in_flight"


class AgentSilentAtPauseError(ConflictError):
    """The sandbox's agent did not answer when it was paused, so a resume with its memory gives no usable sandbox."""

    code = "sandbox_snapshot_guest_agent_unresponsive"


class SecretLimitError(ConflictError):
    """The team has as many secrets as it may."""

    code = "secret_limit_reached"


class LimitError(CloisterError):
    """A limit was reached."""

    code = "limit_reached"


class QuotaExceededError(LimitError):
    """A limit of the team was reached."""

    code = "quota_exceeded"


class RateLimitedError(LimitError):
    """Too many requests at this time."""

    code = "rate_limited"


class TooManyFailuresError(RateLimitedError):
    """A client sent too many wrong credentials."""

    code = "too_many_failures"


class NoCapacityError(LimitError):
    """The machine has no capacity for another sandbox or build."""

    code = "no_capacity"


class StorageFullError(NoCapacityError):
    """The disk has no room for the data."""

    code = "storage_full"


class UnavailableError(CloisterError):
    """A required process does not answer at this time."""

    code = "unavailable"


class NodeUnreachableError(UnavailableError):
    """The node supervisor does not answer."""

    code = "node_unreachable"


class AgentUnreachableError(UnavailableError):
    """The agent of a live sandbox does not answer."""

    code = "agent_unreachable"


class AgentSilentError(AgentUnreachableError):
    """The agent of a live sandbox must answer before the operation, and does not."""

    code = "agent_silent"


class StartFailedError(CloisterError):
    """The start command of a template failed or did not become ready. The template or the load is the cause, not the request."""

    code = "start_failed"


class InternalError(CloisterError):
    """A fault in Cloister itself."""

    code = "internal"


class IsolationError(InternalError):
    """A hardening step could not be applied, so no sandbox was created (fail closed)."""

    code = "isolation_failed"

    def __init__(self, message: str, *, step: str = "", errno: int = 0, path: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.errno = errno
        self.path = path


class RuntimeFailedError(InternalError):
    """A runtime could not perform an operation."""

    code = "runtime_failed"


class StoreError(InternalError):
    """The store refused or failed."""

    code = "store_failed"


class StoreUnreachableError(StoreError):
    """The database does not answer at this time."""

    code = "store_unreachable"


class UnusableStateError(StoreError):
    """A state file of the server is damaged, or a newer release wrote it. A restart does not help; an operator must repair it."""

    code = "state_unusable"


def _tree(cls: type[CloisterError]) -> dict[str, type[CloisterError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found.update(_tree(child))
    return found


def from_code(code: str, message: str, hint: str | None = None) -> CloisterError:
    """The exception of ``code``; :class:`InternalError` for an unknown code."""
    return _tree(CloisterError).get(code, InternalError)(message, hint=hint)
