"""The context of all REST handlers, and their JSON answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from cloister.api.failures import Failures
from cloister.api.peers import Peers
from cloister.control.audit import AuditLog
from cloister.control.builds.builds import Builds
from cloister.control.deliveries import Deliveries
from cloister.control.forks import Forks
from cloister.control.identity import Identity
from cloister.control.keys import Caller, Keys
from cloister.control.logs import SandboxLogs
from cloister.control.networks import Networks
from cloister.control.nodes import Nodes
from cloister.control.pausing import Pausing
from cloister.control.sandboxes import Sandboxes
from cloister.control.secrets import Secrets
from cloister.control.sessions import Sessions
from cloister.control.snapshots import Snapshots
from cloister.control.team_admin import TeamAdmin
from cloister.control.team_metrics import TeamMetrics
from cloister.control.templates import Templates
from cloister.control.uploads import Uploads
from cloister.control.volumes import Volumes
from cloister.errors import InvalidRequestError

__all__ = ["CALLER", "KEY_ID", "NO_RETRY", "OBJECT_ID", "PEER", "REQUEST_ID", "SANDBOX_ID", "TEAM_ID", "Api", "Deadlines", "json_answer"]

TEAM_ID = web.RequestKey("team_id", str)
SANDBOX_ID = web.RequestKey("sandbox_id", str)
REQUEST_ID = web.RequestKey("request_id", str)
KEY_ID = web.RequestKey("key_id", str)
PEER = web.RequestKey("peer", str)
"""Fields for the request's log line."""
OBJECT_ID = web.RequestKey("object_id", str)
"""Id of an object that the request made. The audit log has the id in the path otherwise."""
CALLER = web.RequestKey("caller", Caller)
"""Set on every route of a team."""
_PATH_ID = re.compile(r"([a-z0-9]+)(?:-[a-z0-9]+)?")
NO_RETRY = web.RequestKey("no_retry", bool)
"""Set by a handler whose request does harm when a client repeats it: the SDKs are told so, whatever the answer is."""


@dataclass(frozen=True)
class Deadlines:
    """Time limits for the bodies of requests."""

    body_s: float
    """For a whole JSON body."""
    stall_s: float
    """Between two reads of an upload."""


@dataclass(frozen=True)
class Api:
    """The use cases behind the API, and the parts that all handlers share."""

    keys: Keys
    team_admin: TeamAdmin
    team_metrics: TeamMetrics
    sandboxes: Sandboxes
    pausing: Pausing
    templates: Templates
    builds: Builds
    uploads: Uploads
    snapshots: Snapshots
    forks: Forks
    networks: Networks
    secrets: Secrets
    volumes: Volumes
    identity: Identity
    logs: SandboxLogs
    domain: str
    failures: Failures
    deadlines: Deadlines
    audit: AuditLog
    deliveries: Deliveries
    peers: Peers
    nodes: Nodes
    sessions: Sessions = field(default_factory=Sessions)


def json_answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """``body`` as JSON."""
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", headers=headers)


def path_sandbox_id(request: web.Request) -> str:
    """The sandbox id of the path; some clients append ``-<client id>``. Raises: InvalidRequestError."""
    match = _PATH_ID.fullmatch(request.match_info["sandbox_id"])
    if match is None:
        raise InvalidRequestError("the path has no valid sandbox id")
    return match[1]
