"""The typed requests and answers of the node protocol that are not entities of :mod:`cloister.model`.

Every field of a request has a bound (:mod:`cloister.model.bounds`): the supervisor runs as root and does not trust the API process.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from cloister.model.bounds import BuildId, Label, PublicId, SandboxId, TemplateName, Time, count, within
from cloister.model.connection import LookUp
from cloister.model.lifecycle import Lifecycle
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.sandbox import EndReason, SandboxRecord
from cloister.model.team_traffic import TeamTraffic
from cloister.model.volume import MAX_VOLUME_MIB, MIN_VOLUME_MIB
from cloister.nodewire.codec import dump_object

__all__ = [
    "MAX_IDS",
    "MAX_LOOK_UPS",
    "MAX_REPORT_ENTRIES",
    "AskEnds",
    "AskMetrics",
    "BuildRef",
    "ChangeDrain",
    "CopyVolume",
    "DialVolume",
    "DnsSockets",
    "Kill",
    "ListSandboxes",
    "MakeVolume",
    "NoteLookUps",
    "PauseSandbox",
    "ReportBuild",
    "Reserve",
    "ResumeSandbox",
    "SandboxPage",
    "SandboxRef",
    "SetDeadline",
    "SetNetwork",
    "SetTeamTraffic",
    "TakeSnapshot",
    "TemplateRef",
    "VolumeRef",
]

MAX_IDS = 1000
"""Sandboxes that one request may name."""
MAX_REPORT_ENTRIES = 1000
"""Entries of a build's log that one answer has at most."""
MAX_LOOK_UPS = 200
"""Look-ups that one request may have."""
_MAX_TEAMS = 10_000
_MAX_OFFSET = 1 << 40
_MAX_SAMPLES = 1_000_000
_PAGE_BYTES = 4 << 20


@dataclass(frozen=True)
class SandboxRef:
    """Names a sandbox."""

    sandbox_id: SandboxId


@dataclass(frozen=True)
class TemplateRef:
    """Names a template."""

    name: TemplateName


@dataclass(frozen=True)
class BuildRef:
    """Names a build."""

    build_id: BuildId


@dataclass(frozen=True)
class Reserve:
    """Announces the team's next creation."""

    template: TemplateName
    team_id: PublicId
    has_volumes: bool = False


@dataclass(frozen=True)
class Kill:
    """Names a sandbox, and the reason that its end has."""

    sandbox_id: SandboxId
    reason: EndReason = EndReason.KILLED


@dataclass(frozen=True, kw_only=True)
class ChangeDrain:
    """Begin the drain of the node, or end it. ``pause``: also pause all sandboxes, and resume none; ``reason`` is for clients."""

    is_on: bool
    pause: bool = False
    reason: Label = ""


@dataclass(frozen=True)
class SetDeadline:
    """Names a sandbox, and the time at which the node kills it."""

    sandbox_id: SandboxId
    end_at: Time


@dataclass(frozen=True)
class SetNetwork:
    """Names a running sandbox, and its network from now on."""

    sandbox_id: SandboxId
    egress: EgressPolicy
    network: NetworkOptions


@dataclass(frozen=True)
class SetTeamTraffic:
    """The bounds of all teams whose traffic is bounded."""

    teams: Annotated[tuple[TeamTraffic, ...], count(0, _MAX_TEAMS)]


@dataclass(frozen=True)
class NoteLookUps:
    """Names that sandboxes have looked up by the server's resolver."""

    look_ups: Annotated[tuple[LookUp, ...], count(0, MAX_LOOK_UPS)]


@dataclass(frozen=True)
class PauseSandbox:
    """Names a running sandbox, and whether its memory is to be kept."""

    sandbox_id: SandboxId
    memory: bool = True


@dataclass(frozen=True)
class ResumeSandbox:
    """Names a paused sandbox, and its next deadline."""

    sandbox_id: SandboxId
    end_at: Time
    memory: bool = True
    """False: do not go on with its processes, if it has any, but start it anew on its disk."""
    lifecycle: Lifecycle | None = None
    """Replaces its own from now on; None keeps it."""


@dataclass(frozen=True)
class ListSandboxes:
    """Asks for the page of sandboxes whose ids come after ``after``."""

    after: SandboxId | None = None


@dataclass(frozen=True)
class SandboxPage:
    """Some of the live sandboxes, in the order of their ids: all records together may be longer than a message."""

    sandboxes: tuple[SandboxRecord, ...]
    more: bool
    """Whether there is a page after this one."""

    @classmethod
    def of(cls, records: Iterable[SandboxRecord], request: ListSandboxes) -> SandboxPage:
        """The page of these records that ``request`` asks for, some 4 MiB long."""
        page: list[SandboxRecord] = []
        size = 0
        for record in sorted(records, key=lambda record: record.sandbox_id):
            if request.after is not None and record.sandbox_id <= request.after:
                continue
            if size > _PAGE_BYTES:
                return cls(tuple(page), more=True)
            page.append(record)
            size += len(json.dumps(record, default=dump_object))
        return cls(tuple(page), more=False)


@dataclass(frozen=True)
class AskEnds:
    """Names sandboxes that may have ended."""

    sandbox_ids: Annotated[tuple[SandboxId, ...], count(0, MAX_IDS)]


@dataclass(frozen=True)
class AskMetrics:
    """Names a sandbox, and a span of time (epoch seconds, both ends included) or the newest so many samples of it."""

    sandbox_id: SandboxId
    start: Time | None = None
    end: Time | None = None
    newest: Annotated[int, within(1, _MAX_SAMPLES)] | None = None


@dataclass(frozen=True)
class DnsSockets:
    """The sandboxes' resolver address as a UDP socket and a listening TCP socket, and the resolvers that it asks."""

    udp: socket.socket
    tcp: socket.socket
    upstreams: tuple[str, ...]


@dataclass(frozen=True)
class ReportBuild:
    """Names a build, and a window of its log: at most ``limit`` entries from index ``offset`` on."""

    build_id: BuildId
    offset: Annotated[int, within(0, _MAX_OFFSET)] = 0
    limit: Annotated[int, within(0, MAX_REPORT_ENTRIES)] = 100


@dataclass(frozen=True)
class TakeSnapshot:
    """Names a running sandbox, and the build, the template and the label of what it becomes."""

    sandbox_id: SandboxId
    build_id: BuildId
    template_id: PublicId
    name: Label
    memory: bool = False
    """Whether it is to have the memory and the processes too. A node that cannot do that refuses it."""
    for_copies: bool = False
    """Only copies of the sandbox are made of it, and soon: nothing is prepared for it that pays later."""


@dataclass(frozen=True)
class VolumeRef:
    """Names a volume."""

    volume_id: BuildId


@dataclass(frozen=True)
class DialVolume:
    """Names a volume whose content is asked for, and its team."""

    volume_id: BuildId
    team_id: PublicId


@dataclass(frozen=True)
class MakeVolume:
    """Names a new volume, its size, and the most files and directories in it."""

    volume_id: BuildId
    size_mib: Annotated[int, within(MIN_VOLUME_MIB, MAX_VOLUME_MIB)]
    inodes: Annotated[int, within(16, 1 << 32)]


@dataclass(frozen=True)
class CopyVolume:
    """Names a volume, and the new one that is to be like it."""

    volume_id: BuildId
    target_id: BuildId
