"""The init document: what the agent is told of its sandbox, and the part of it that may change later (docs/architecture.md).

It owns the reading and checking of the document; the values are handed to whoever needs them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any

from cloister.errors import InvalidRequestError

__all__ = ["AgentLimits", "InitDocument", "SandboxState", "StartPlan", "parse_init", "read_init"]

_MAX_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class AgentLimits:
    """The sandbox's limits as far as the agent has a use for them (units as in the names)."""

    cpu_count: float = 2.0
    mem_mib: int = 1024
    output_mib: int = 256


@dataclass(frozen=True, kw_only=True)
class StartPlan:
    """What the template starts in every sandbox, once, and how it is known to be up (agent/startup.py). Either command may be empty."""

    command: str = ""
    ready: str = ""
    envs: dict[str, str] = field(default_factory=dict)
    """The template's variables, without those of the sandbox: it may have been made ahead, for nobody."""
    timeout_s: float = 50.0


@dataclass(frozen=True, kw_only=True)
class InitDocument:
    """What the supervisor says when the sandbox starts."""

    sandbox_id: str
    template_id: str = ""
    template: str = ""
    envs: dict[str, str] = field(default_factory=dict)
    access_token: str | None = None
    user: str = "user"
    workdir: str = "/"
    kernel_user: str = "root"
    languages: tuple[str, ...] = ()
    programs: dict[str, str] = field(default_factory=dict)
    """Language to the program that runs its driver, where it is not the usual one."""
    start: StartPlan | None = None
    limits: AgentLimits = field(default_factory=AgentLimits)
    agent_env: dict[str, str] = field(default_factory=dict)


@dataclass
class SandboxState:
    """The init document and what POST /init has changed since. One per agent, shared by both apps."""

    document: InitDocument
    envs: dict[str, str]
    access_token: str | None

    @classmethod
    def from_document(cls, document: InitDocument) -> SandboxState:
        """The state at the start."""
        return cls(document, dict(document.envs), document.access_token)

    @classmethod
    def blank(cls) -> SandboxState:
        """That of a sandbox which is not known yet."""
        return cls.from_document(InitDocument(sandbox_id=""))

    def become(self, document: InitDocument) -> None:
        """The state at the start of a sandbox that was not known when this was made."""
        self.document, self.envs, self.access_token = document, dict(document.envs), document.access_token


def read_init(fd: int) -> InitDocument:
    """Read the document from the start of ``fd``, which stays open and unmoved (a new agent reads it again).

    Raises: InvalidRequestError, OSError.
    """
    parts = []
    offset = 0
    while data := os.pread(fd, 1 << 16, offset):
        parts.append(data)
        offset += len(data)
        if offset > _MAX_BYTES:
            raise InvalidRequestError("the init document is too large")
    return parse_init(b"".join(parts))


def parse_init(text: bytes) -> InitDocument:
    """The document from its JSON. Unknown fields are left aside.

    Raises: InvalidRequestError.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"the init document is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("sandbox_id"), str):
        raise InvalidRequestError("the init document has no sandbox_id")
    values: dict[str, Any] = {one.name: data[one.name] for one in fields(InitDocument) if data.get(one.name) is not None}
    values["languages"] = tuple(values.get("languages", ()))
    limits, start = data.get("limits") or {}, data.get("start")
    values["limits"] = AgentLimits(**{one.name: limits[one.name] for one in fields(AgentLimits) if one.name in limits})
    if start:
        values["start"] = StartPlan(**{one.name: start[one.name] for one in fields(StartPlan) if one.name in start})
    return InitDocument(**values)
