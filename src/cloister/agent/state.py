"""The agent's state: the init document, and what ``POST /init`` has changed since. One per agent; both APIs share it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from cloister.errors import InvalidRequestError
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.init_document import InitDocument, InitUpdate

__all__ = ["AgentState", "read_init"]

_MAX_BYTES = 8 << 20


@dataclass
class AgentState:
    """See the module."""

    document: InitDocument
    envs: dict[str, str]
    access_token: str | None
    init_fd: int | None = None
    """Where an agent that is started again reads the init document; None: nowhere."""
    is_copy: bool = False
    """Whether the sandbox began as a copy of another one."""

    @classmethod
    def from_document(cls, document: InitDocument) -> AgentState:
        """The state at the start."""
        return cls(document, dict(document.envs), document.access_token)

    @classmethod
    def blank(cls) -> AgentState:
        """The state of an agent that does not know its sandbox yet."""
        return cls.from_document(InitDocument(sandbox_id=""))

    def become(self, document: InitDocument, init_fd: int | None = None) -> None:
        """Take the state at the start of this sandbox. ``init_fd`` has the document."""
        self.init_fd = init_fd
        self.document, self.envs, self.access_token = document, dict(document.envs), document.access_token

    def become_copy(self, copy: CopiedSandbox) -> None:
        """Take the identity of a copy of the sandbox; an agent that is started again takes it too. Raises: OSError, nothing changed."""
        envs = self.envs if copy.envs is None else copy.envs
        document = replace(
            self.document, sandbox_id=copy.sandbox_id, access_token=copy.access_token, envs=dict(envs), ca_bundle=copy.ca_bundle
        )
        if self.init_fd is not None:
            _rewrite_init(self.init_fd, document.to_json())
        self.document, self.envs, self.access_token = document, dict(envs), copy.access_token
        self.is_copy = True

    def update(self, update: InitUpdate) -> None:
        """Apply the body of ``POST /init``; an agent that is started again knows it too. Raises: OSError, nothing changed."""
        envs, token = self.envs | update.envs, update.access_token or self.access_token
        bundle = self.document.ca_bundle if update.ca_bundle is None else update.ca_bundle
        document = replace(self.document, envs=envs, access_token=token, ca_bundle=bundle)
        if self.init_fd is not None:
            _rewrite_init(self.init_fd, document.to_json())
        self.document, self.envs, self.access_token = document, dict(envs), token


def read_init(fd: int) -> InitDocument:
    """Read the document from the start of ``fd``, which stays open and unmoved (a restarted agent reads it again).

    Raises: InvalidRequestError, OSError.
    """
    parts = []
    offset = 0
    while data := os.pread(fd, 1 << 16, offset):
        parts.append(data)
        offset += len(data)
        if offset > _MAX_BYTES:
            raise InvalidRequestError("the init document is too large")
    return InitDocument.from_json(b"".join(parts))


def _rewrite_init(fd: int, content: bytes) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(fd, content[written:], written)
    os.ftruncate(fd, written)
