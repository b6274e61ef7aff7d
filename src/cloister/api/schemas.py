"""Wire names of the REST API: parses request bodies to the control plane's types, and renders its types as answers.

The contract is the published one (the E2B REST API, as its SDKs use it). Invariant: a field that may change isolation, access or cost is
understood, has a neutral value, or is refused by name; other unknown fields are ignored and logged.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cloister.api.fields import Fields
from cloister.api.identity_fields import parse_identity
from cloister.api.network_fields import parse_network, render_internet, render_network
from cloister.api.volume_fields import parse_mounts
from cloister.control.pausing import Resumption
from cloister.control.sandboxes import NewSandbox
from cloister.control.volumes import NewMount
from cloister.errors import InvalidRequestError
from cloister.model.lifecycle import Lifecycle, TimeoutAction
from cloister.model.node import Sample, SandboxMetrics
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.secret import reveal
from cloister.model.team import Team

__all__ = [
    "CLIENT_ID",
    "ENVD_VERSION",
    "is_running",
    "parse_connect",
    "parse_idempotency_key",
    "parse_new_sandbox",
    "parse_pause",
    "parse_refresh",
    "parse_resume",
    "parse_timeout",
    "render_created",
    "render_detail",
    "render_listed",
    "render_metric",
    "render_team",
    "render_time",
    "whole_cpus",
]

ENVD_VERSION = "0.6.4"
"""The envd version that the agent claims to be compatible with; SDKs choose features by it."""
CLIENT_ID = "cloister"
DEFAULT_TIMEOUT_S = {1: 15, 2: 300}
"""By version of the creation route."""
_TIMEOUT_ZERO = "Timeout must be greater than 0"
"""The published words."""
_IDEMPOTENCY_KEY = re.compile(r"[a-z0-9-]{1,255}\Z")
_PUBLIC_ONLY = "You cannot create a sandbox without public access unless you enable secure envd access via 'secure' flag."
"""The published words."""


def parse_new_sandbox(body: object, *, api_version: int, idempotency_key: str | None) -> tuple[NewSandbox, tuple[NewMount, ...]]:
    """Parse the body of ``POST /sandboxes`` (1) or ``POST /v2/sandboxes`` (2); the volumes in it are not found yet.

    Raises:
        InvalidRequestError: a field is missing, wrong, unknown or not supported; the message names it.
    """
    fields = Fields(body)
    template = fields.take("templateID", str)
    timeout_s = fields.take("timeout", int, DEFAULT_TIMEOUT_S[api_version])
    metadata, envs = fields.take_texts("metadata"), fields.take_texts("envVars")
    secure = fields.take("secure", bool, api_version == 2)
    allow_internet = fields.take("allow_internet_access", bool, None)
    network = parse_network(fields.take("network", dict, None), allow_internet)
    tokens = parse_identity(fields.take("iam", dict, {}))
    fields.take("mcp", dict, {})  # has no effect here: the SDK starts the servers in the sandbox, with its own keys
    lifecycle = _parse_lifecycle(fields, timeout_s)
    mounts = parse_mounts(fields)
    fields.end()
    if not template.strip():
        raise InvalidRequestError("templateID must not be empty")
    if timeout_s < 1:
        raise InvalidRequestError("timeout must not be negative" if timeout_s else _TIMEOUT_ZERO)
    if api_version == 2 and not secure:
        raise InvalidRequestError("secure: false is not supported by this call; use POST /sandboxes")
    if not network.public_traffic and not secure:
        raise InvalidRequestError(_PUBLIC_ONLY)
    _check_envs(envs)
    new = NewSandbox(
        template=template,
        timeout_s=timeout_s,
        metadata=metadata,
        envs=envs,
        secure=secure,
        egress=network.egress,
        public_traffic=network.public_traffic,
        network=replace(network.options, tokens=tokens),
        lifecycle=lifecycle,
        idempotency_key=idempotency_key,
    )
    return new, mounts


def _parse_lifecycle(fields: Fields, timeout_s: int) -> Lifecycle:
    auto_pause, keeps_memory = fields.take("autoPause", bool, False), fields.take("autoPauseMemory", bool, True)
    resume = Fields(fields.take("autoResume", dict, {}), "autoResume.", is_strict=True)
    auto_resume = resume.take("enabled", bool, False)
    resume.end()
    if not keeps_memory and not auto_pause:
        raise InvalidRequestError("autoPauseMemory: false needs autoPause: true")
    if not keeps_memory and auto_resume:
        raise InvalidRequestError("autoPauseMemory: false excludes autoResume: traffic wakes only a sandbox whose memory is kept")
    paused = TimeoutAction.PAUSE if keeps_memory else TimeoutAction.PAUSE_FILES
    return Lifecycle(on_timeout=paused if auto_pause else TimeoutAction.KILL, wake_s=max(1, timeout_s) if auto_resume else None)


def _check_envs(envs: dict[str, str]) -> None:
    for name in envs:
        if not name or "=" in name:
            raise InvalidRequestError(f"envVars.{name[:200]}: not a possible environment variable")


def parse_connect(body: object, *, api_version: int) -> Resumption:
    """Parse the requests of a connecting client."""
    fields = Fields(body)
    timeout_s: int = fields.take("timeout", int, *((DEFAULT_TIMEOUT_S[2],) if api_version == 2 else ()))
    memory = fields.take("memory", bool, True)
    fields.end()
    if timeout_s < 0:
        raise InvalidRequestError("timeout must not be negative")
    return Resumption(timeout_s=timeout_s, memory=memory)


def parse_resume(body: object) -> Resumption:
    """Parse the body of a resume, which may be empty."""
    fields = Fields(body)
    timeout_s: int = fields.take("timeout", int, DEFAULT_TIMEOUT_S[1])
    auto_pause, memory = fields.take("autoPause", bool, None), fields.take("memory", bool, True)
    fields.end()
    if timeout_s < 1:
        raise InvalidRequestError("timeout must not be negative" if timeout_s else _TIMEOUT_ZERO)
    return Resumption(timeout_s=timeout_s, memory=memory, auto_pause=auto_pause)


def parse_pause(body: object) -> tuple[bool, bool]:
    """Parse the body of a pause, which may be empty: whether the memory is kept, and whether the agent must answer."""
    fields = Fields(body)
    memory, needs_agent = fields.take("memory", bool, True), fields.take("requireHealthyGuest", bool, False)
    fields.end()
    return memory, needs_agent


def parse_timeout(body: object) -> int:
    """Parse a timeout in seconds from now; 0 ends or pauses the sandbox."""
    fields = Fields(body)
    timeout_s: int = fields.take("timeout", int)
    fields.end()
    if timeout_s < 0:
        raise InvalidRequestError("timeout must not be negative")
    return timeout_s


def parse_refresh(body: object) -> int:
    """Parse an extension in seconds, within the bounds of the published API."""
    fields = Fields(body)
    duration_s: int = fields.take("duration", int, 15)
    fields.end()
    if not 0 <= duration_s <= 3_600:
        raise InvalidRequestError("duration must be between 0 and 3600")
    return max(duration_s, 15)


def parse_idempotency_key(value: str | None) -> str | None:
    """The checked value of the header."""
    if value is not None and not _IDEMPOTENCY_KEY.match(value):
        raise InvalidRequestError("Idempotency-Key must be 1 to 255 of a-z, 0-9 and '-'")
    return value


def render_time(at: float) -> str:
    """Epoch seconds as RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def render_created(row: Sandbox, domain: str) -> dict[str, Any]:
    """``Sandbox`` of the contract."""
    return {
        "templateID": row.template_id,
        "sandboxID": row.sandbox_id,
        "clientID": CLIENT_ID,
        "alias": row.template,
        "envdVersion": ENVD_VERSION,
        **({} if row.access_token is None else {"envdAccessToken": row.access_token.revealed}),
        "trafficAccessToken": reveal(row.traffic_token),
        "domain": domain,
    }


def render_listed(row: Sandbox) -> dict[str, Any]:
    """``ListedSandbox`` of the contract."""
    return {
        "templateID": row.template_id,
        "sandboxID": row.sandbox_id,
        "clientID": CLIENT_ID,
        "alias": row.template,
        "startedAt": render_time(row.started_at),
        "endAt": render_time(row.end_at if row.pause is None else row.pause.at),
        "cpuCount": whole_cpus(row.cpu_count),
        "memoryMB": row.mem_mib,
        "diskSizeMB": row.disk_mib,
        "metadata": row.metadata,
        "state": "running" if is_running(row) else "paused",
        "envdVersion": ENVD_VERSION,
        **({} if row.runtime is None else {"runtime": row.runtime}),
        **({"volumeMounts": [{"name": one.name, "path": one.path} for one in row.volumes]} if row.volumes else {}),
        **({"envdUnresponsiveAtPause": True} if row.pause is not None and row.pause.agent_silent else {}),
    }


def is_running(row: Sandbox) -> bool:
    """Whether clients see the sandbox as running, and not as paused: the contract has no other state."""
    return row.state_at(time.time()) is SandboxState.RUNNING


def render_detail(row: Sandbox, domain: str) -> dict[str, Any]:
    """``SandboxDetail`` of the contract."""
    return {
        **render_listed(row),
        **({} if row.access_token is None else {"envdAccessToken": row.access_token.revealed}),
        "domain": domain if is_running(row) else None,
        "allowInternetAccess": render_internet(row),
        **({} if (network := render_network(row)) is None else {"network": network}),
        "lifecycle": {
            "autoResume": row.lifecycle.wake_s is not None,
            "onTimeout": "kill" if row.lifecycle.on_timeout is TimeoutAction.KILL else "pause",
        },
        **_render_pause(row),
    }


def _render_pause(row: Sandbox) -> dict[str, Any]:
    """What a pause keeps, once that is certain."""
    if row.state is not SandboxState.PAUSED or row.pause is None:
        return {}
    return {"pauseMode": "full" if row.pause.kind.keeps_memory else "filesystem"}


def render_metric(row: Sandbox, metrics: SandboxMetrics, sample: Sample) -> dict[str, Any]:
    """``SandboxMetric`` of the contract."""
    return {
        "timestamp": render_time(sample.at),
        "timestampUnix": int(sample.at),
        "cpuCount": whole_cpus(row.cpu_count),
        "cpuUsedPct": sample.cpu_used_pct,
        "memUsed": sample.mem_used_bytes,
        "memTotal": metrics.mem_limit_bytes,
        "memCache": sample.mem_cache_bytes,
        "diskUsed": sample.disk_used_bytes,
        "diskTotal": metrics.disk_total_bytes,
    }


def render_team(team: Team, key: str) -> dict[str, Any]:
    """``Team`` of the contract, for the holder of its key."""
    return {"teamID": team.team_id, "name": team.name, "apiKey": key, "isDefault": True}


def whole_cpus(cpu_count: float) -> int:
    """Whole CPUs, as the contract has; a fraction counts as one."""
    return max(1, round(cpu_count))
