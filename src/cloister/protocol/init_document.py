"""The init document: what the server tells an agent about its sandbox. Server and agent write and read it with this code. No I/O.

The supervisor writes the document into a memfd before pid 1 starts the agent (docs/architecture.md). Later it sends an
:class:`InitUpdate` in ``POST /init`` when a client takes over a sandbox that was made ahead.

Versions: a sandbox keeps the agent tree that it was created with. After an upgrade of the server, the agent in a live sandbox is still the
old one, and the supervisor does not rewrite that sandbox's document: old agents read only old documents. Sandboxes made ahead do not
outlive the server that made them. A field may therefore be added or removed without regard for older agents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cloister.errors import InvalidRequestError
from cloister.protocol.execution import parse_envs

__all__ = ["AgentLimits", "InitDocument", "InitUpdate", "StartPlan"]


@dataclass(frozen=True, kw_only=True)
class AgentLimits:
    """The limits of the sandbox that the agent needs to know."""

    cpu_count: float = 2.0
    mem_mib: int = 1024
    output_mib: int = 256


@dataclass(frozen=True, kw_only=True)
class StartPlan:
    """The commands that the first agent of a sandbox runs once (agent/startup.py). Either command may be empty."""

    command: str = ""
    ready: str = ""
    envs: dict[str, str] = field(default_factory=dict, repr=False)
    """The template's variables only: a sandbox made ahead has no client yet when it starts."""
    timeout_s: float = 50.0


@dataclass(frozen=True, kw_only=True)
class InitDocument:
    """The whole document. ``envs`` are the variables of host, template and sandbox, merged."""

    sandbox_id: str
    template_id: str = ""
    template: str = ""
    envs: dict[str, str] = field(default_factory=dict, repr=False)
    access_token: str | None = field(default=None, repr=False)
    user: str = "user"
    workdir: str = "/"
    kernel_user: str = "root"
    languages: tuple[str, ...] = ()
    programs: dict[str, str] = field(default_factory=dict)
    """Language to the program that runs its driver, for languages whose program is not the usual one."""
    start: StartPlan | None = None
    limits: AgentLimits = field(default_factory=AgentLimits)
    ca_bundle: str = ""
    """The certificate (PEM) of the sandbox's own authority, which its programs shall trust; empty: it has no header rules."""

    def to_json(self) -> bytes:
        """The document as the memfd holds it."""
        start = None if self.start is None else vars(self.start)
        return json.dumps({**vars(self), "start": start, "limits": vars(self.limits)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> InitDocument:
        """Read a document. Unknown fields are ignored; a field that is absent or null has its default.

        Raises: InvalidRequestError.
        """
        data = _object(text, "the init document")
        if not isinstance(data.get("sandbox_id"), str):
            raise InvalidRequestError("the init document has no sandbox_id")
        values = _known(cls, data)
        values["languages"] = tuple(values.get("languages", ()))
        values["limits"] = AgentLimits(**_known(AgentLimits, values.get("limits", {})))
        if "start" in values:
            values["start"] = StartPlan(**_known(StartPlan, values["start"]))
        return cls(**values)


@dataclass(frozen=True)
class InitUpdate:
    """The body of ``POST /init``: variables to add, and the token that replaces the present one. None and empty change nothing."""

    envs: dict[str, str] = field(default_factory=dict, repr=False)
    access_token: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    """As in the document; None changes nothing."""

    def to_json(self) -> bytes:
        """The body."""
        return json.dumps({"envVars": self.envs, "accessToken": self.access_token, "caBundle": self.ca_bundle}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> InitUpdate:
        """Read a body; an empty one changes nothing. Raises: InvalidRequestError."""
        data = _object(body or b"{}", "The body")
        token = data.get("accessToken")
        if token is not None and not isinstance(token, str):
            raise InvalidRequestError("'accessToken' must be a string")
        bundle = data.get("caBundle")
        if bundle is not None and not isinstance(bundle, str):
            raise InvalidRequestError("'caBundle' must be a string")
        return cls(parse_envs(data.get("envVars"), "envVars"), token, bundle)


def _known(cls: type[AgentLimits | StartPlan | InitDocument], data: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: data[one.name] for one in fields(cls) if data.get(one.name) is not None}


def _object(text: bytes, what: str) -> dict[str, Any]:
    """Raises: InvalidRequestError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidRequestError(f"{what} must be a JSON object")
    return data
