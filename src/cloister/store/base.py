"""What the control plane needs of a store, whichever database it is; and the rows, as frozen data.

Invariant: a sandbox row changes only by compare-and-set on its ``version``, so that two writers cannot undo each other unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cloister.model.sandbox import EndReason, SandboxState
from cloister.store.templates import TemplateStore

__all__ = ["ApiKey", "Sandbox", "Store", "Team"]


@dataclass(frozen=True, kw_only=True)
class Team:
    """Who sandboxes and keys belong to."""

    team_id: str
    name: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret."""

    key_id: str
    team_id: str
    name: str
    key_hash: str
    hint: str
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A sandbox as its team sees it. Times are seconds since the epoch, UTC."""

    sandbox_id: str
    team_id: str
    template_id: str
    template: str
    state: SandboxState
    started_at: float
    end_at: float
    cpu_count: float
    mem_mib: int
    disk_mib: int
    metadata: dict[str, str] = field(default_factory=dict)
    access_token: str | None = field(default=None, repr=False)
    traffic_token: str | None = field(default=None, repr=False)
    """What the ingress demands for ports of the sandbox; None: its ports are public."""
    allow_internet: bool | None = None
    """None: the client did not say, so it is allowed."""
    idempotency_key: str | None = None
    end_reason: EndReason | None = None
    end_message: str | None = None
    ended_at: float | None = None
    version: int = 1


class Store(Protocol):
    """Every method raises StoreError when the database fails."""

    @property
    def templates(self) -> TemplateStore:
        """Templates of clients, in the same database."""

    async def close(self) -> None:
        """Let go of the database; waits for what is being written."""

    async def add_team(self, team: Team) -> None:
        """Add a team; AlreadyExistsError when the name is taken."""

    async def list_teams(self) -> Sequence[Team]:
        """All teams, oldest first."""

    async def add_key(self, key: ApiKey) -> None:
        """Add a key."""

    async def list_keys(self) -> Sequence[ApiKey]:
        """All keys, oldest first, revoked ones too."""

    async def revoke_key(self, key_id: str, at: float) -> bool:
        """Revoke a key for good; False if there is none or it was revoked before."""

    async def find_team_by_key(self, key_hash: str) -> Team | None:
        """The team of the key that is not revoked and has this hash."""

    async def add_sandbox(self, sandbox: Sandbox) -> None:
        """Add a sandbox; AlreadyExistsError when its id, or its idempotency key among live ones, is taken."""

    async def change_sandbox(self, sandbox: Sandbox, *, expected_version: int) -> bool:
        """Replace the row, whose version becomes ``sandbox.version``; False when it is no longer at ``expected_version``."""

    async def list_sandboxes(self, *, ended_since: float) -> Sequence[Sandbox]:
        """All that have not ended, and those that ended at ``ended_since`` or later."""

    async def prune_sandboxes(self, *, ended_before: float) -> int:
        """Forget sandboxes that ended earlier; returns how many."""
