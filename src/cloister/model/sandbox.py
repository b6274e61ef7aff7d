"""A sandbox: its states and the legal transitions between them, and its records. Plain data.

Invariant: a record changes its state only by :func:`transition`, which refuses what the table does not allow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from cloister.errors import InvalidTransitionError
from cloister.model.bounds import PUBLIC_ID, SandboxId, TemplateName, Time, count, json_tree, matching, text, variables
from cloister.model.client_data import MAX_CLIENT_DATA_BYTES, ClientData
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind, TimeoutAction
from cloister.model.network import PUBLIC_EGRESS, EgressPolicy, NetworkOptions
from cloister.model.resources import Limits
from cloister.model.secret import Secret, conceal, reveal
from cloister.model.volume import MAX_MOUNTS, VolumeMount

__all__ = ["TRANSITIONS", "EndReason", "Sandbox", "SandboxRecord", "SandboxRequest", "SandboxState", "check_transition", "transition"]


class SandboxState(StrEnum):
    """The state of a sandbox, as the node's journal, the store and the API know it."""

    CREATING = "creating"
    """It is being made, or it was made ahead of a request and waits for one."""
    RUNNING = "running"
    """It has an owner, and its agent answers."""
    PAUSING = "pausing"
    """It is being paused. Nothing reaches it any more."""
    PAUSED = "paused"
    """It uses no processor, has no deadline, and its record says how it is kept."""
    RESUMING = "resuming"
    """It is being brought back to ``running``."""
    ENDING = "ending"
    """The node has decided its end, and kills its processes. Only the node uses this state."""
    ENDED = "ended"
    """Its processes are dead."""


TRANSITIONS: dict[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset({SandboxState.RUNNING, SandboxState.ENDED}),
    SandboxState.RUNNING: frozenset({SandboxState.PAUSING, SandboxState.ENDING, SandboxState.ENDED}),
    SandboxState.PAUSING: frozenset({SandboxState.PAUSED, SandboxState.RUNNING, SandboxState.ENDING, SandboxState.ENDED}),
    SandboxState.PAUSED: frozenset({SandboxState.RESUMING, SandboxState.ENDING, SandboxState.ENDED}),
    SandboxState.RESUMING: frozenset({SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.ENDING, SandboxState.ENDED}),
    SandboxState.ENDING: frozenset({SandboxState.ENDED}),
    SandboxState.ENDED: frozenset(),
}
"""The states that may follow each state. A new state needs a row here, and every row that leads to it.

::

    creating ──> running ──────────> ending ──> ended
        │          │  ^ ^              ^          ^
        │          v  │ └─ resuming <┐ │          │
        │        pausing ──> paused ─┘─┘          │
        └─────────────────────────────────────────┘

A pause that fails goes back to ``running``, a resume that fails to ``paused``. Every state but ``ended`` may end.
The control plane learns of an end when it is over, so its rows skip ``ending``. A creation that fails leaves only an ended row.
"""


class _HasState(Protocol):
    """A frozen dataclass with a ``state``."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def state(self) -> SandboxState:
        """Its state now."""
        ...


_R = TypeVar("_R", bound=_HasState)


def check_transition(before: SandboxState, after: SandboxState) -> None:
    """Raises: InvalidTransitionError: the table does not allow ``after`` to follow ``before``."""
    if after not in TRANSITIONS[before]:
        raise InvalidTransitionError(f"a sandbox cannot change from {before} to {after}", from_state=before, to_state=after)


def transition(record: _R, after: SandboxState, **changes: Any) -> _R:
    """The record in the state ``after``, with ``changes`` to its other fields. Raises: InvalidTransitionError."""
    check_transition(record.state, after)
    return replace(record, state=after, **changes)


class EndReason(StrEnum):
    """Why a sandbox ended."""

    KILLED = "killed"
    EXPIRED = "expired"
    CRASHED = "crashed"
    FAILED = "failed"
    STOPPED = "stopped"
    NO_SPACE = "no_space"
    KERNEL_MEMORY = "kernel_memory"
    PAUSED_TOO_LONG = "paused_too_long"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class SandboxRequest:
    """A request of the control plane to a node. Times are seconds since the epoch, UTC."""

    sandbox_id: SandboxId
    template: TemplateName
    end_at: Time
    team_id: Annotated[str, matching(f"({PUBLIC_ID})?")] = ""
    """The team that owns the sandbox. Empty for a sandbox that the node makes for itself, or ahead of a request of any team."""
    envs: Annotated[dict[str, str], variables] = field(default_factory=dict, repr=False)
    access_token: Annotated[Secret, text(512)] | None = None
    """The token that the agent demands as ``X-Access-Token``; None for an insecure sandbox."""
    egress: EgressPolicy = PUBLIC_EGRESS
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    limits: Limits | None = None
    """None takes the template's."""
    runtime: Annotated[str, text(64)] | None = None
    """None takes the node's default."""
    client: Annotated[ClientData, json_tree(MAX_CLIENT_DATA_BYTES, depth=12)] | None = None
    """The node keeps this for the control plane and does not read it; None: the node makes the sandbox for itself."""
    volumes: Annotated[tuple[VolumeMount, ...], count(0, MAX_MOUNTS)] = ()
    """In the order in which they are mounted."""


@dataclass(frozen=True, kw_only=True)
class SandboxRecord:
    """A sandbox as its node knows it; also its journal entry."""

    sandbox_id: str
    template: str
    runtime: str
    state: SandboxState
    started_at: float
    end_at: float
    limits: Limits
    egress: EgressPolicy = PUBLIC_EGRESS
    access_token: Secret | None = None
    client: ClientData | None = None
    build_id: str = ""
    """The build of the template that the sandbox was made from; empty in entries of older versions."""
    team_id: str = ""
    """As in the request; so are ``egress``, ``access_token``, ``client`` and ``lifecycle``."""
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    pause: Pause | None = None
    """How it is kept, or is to be; None unless it is pausing, paused or resuming."""
    volumes: tuple[VolumeMount, ...] = ()
    """As in the request."""

    @property
    def is_frozen(self) -> bool:
        """Whether it is paused, and its processes are there."""
        return self.state is SandboxState.PAUSED and self.pause is not None and self.pause.kind is PauseKind.FROZEN

    @property
    def is_on_disk(self) -> bool:
        """Whether it is paused, and has no processes."""
        return self.state is SandboxState.PAUSED and not self.is_frozen

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, secrets included; :meth:`from_json` reads it back."""
        fields = {
            **vars(self),  # not by asdict, which takes five times as long: each sandbox is written down four times
            "limits": dict(vars(self.limits)),
            "access_token": reveal(self.access_token),
            "client": None if self.client is None else self.client.to_json(),
            "egress": self.egress.to_json(),
            "lifecycle": self.lifecycle.to_json(),
            "pause": None if self.pause is None else self.pause.to_json(),
            "volumes": [one.to_json() for one in self.volumes],
        }
        if not self.volumes:
            del fields["volumes"]  # so that an earlier release can read it
        return fields

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SandboxRecord:
        """The inverse of :meth:`to_json`; also reads entries of the journal's format 1."""
        fields = _from_format_1(data) if "attributes" in data else dict(data)
        fields["limits"] = Limits(**fields["limits"])
        fields["state"] = SandboxState(fields["state"])
        fields["egress"] = EgressPolicy.from_json(fields["egress"])
        fields["access_token"] = conceal(fields["access_token"])
        fields["client"] = None if fields["client"] is None else ClientData.from_json(fields["client"])
        fields["lifecycle"] = Lifecycle.from_json(fields.get("lifecycle", {}))
        fields["pause"] = None if fields.get("pause") is None else Pause.from_json(fields["pause"])
        fields["volumes"] = tuple(map(VolumeMount.from_json, fields.get("volumes", ())))
        return cls(**fields)


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of today: format 1 had an untyped ``attributes``, and a boolean as egress policy."""
    fields = dict(data)
    former = fields.pop("attributes")
    fields["egress"] = {"public": fields.pop("allow_internet", True)}
    fields.setdefault("team_id", former.get("team_id", ""))  # where the first releases kept it
    fields["access_token"] = former.get("access_token")
    chosen = former.get("allow_internet")
    template = {"template_id": data["template"], "template": data["template"]}
    fields["client"] = {**template, **former, "egress": None if chosen is None else {"public": chosen}} if former else None
    return fields


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
    access_token: Secret | None = None
    traffic_token: Secret | None = None
    """The token that clients must send to reach the sandbox's ports; None: the ports are public."""
    egress: EgressPolicy | None = None
    """None: the client did not choose; :attr:`effective_egress` says what it gets."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    idempotency_key: str | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    pause: Pause | None = None
    """How it is kept, or is to be; None unless it is pausing, paused or resuming."""
    node_id: str | None = None
    """The node that runs it; None: the row is of a release with one unnamed node, or no node has been reached yet."""
    build_id: str | None = None
    """The build that it stands on; None: a stock template's, or the row is of an older release. The build stays as long as it lives."""
    runtime: str | None = None
    """The name of its runtime; None: its node has not said it yet, or the row is of a release with one runtime."""
    volumes: tuple[VolumeMount, ...] = ()
    end_reason: EndReason | None = None
    end_message: str | None = None
    ended_at: float | None = None
    version: int = 1

    @property
    def effective_egress(self) -> EgressPolicy:
        """The policy that the sandbox runs under."""
        return PUBLIC_EGRESS if self.egress is None else self.egress

    def state_at(self, now: float) -> SandboxState:
        """Its state, or the state that its deadline has brought about and its node will report."""
        if self.state not in (SandboxState.CREATING, SandboxState.RUNNING) or self.end_at > now:
            return self.state
        if self.lifecycle.on_timeout is TimeoutAction.KILL:
            return SandboxState.ENDED
        return SandboxState.PAUSING if self.state is SandboxState.RUNNING else self.state
