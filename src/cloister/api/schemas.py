"""Wire names of the REST API: bodies of requests into the control plane's terms, and its terms into bodies of answers.

The contract is the published one (the E2B REST API, as its SDKs speak it). Invariant: a field is
understood, known to be without effect at its value, or refused by name; never passed over.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from cloister.api.fields import Fields
from cloister.control.sandboxes import NewSandbox
from cloister.errors import InvalidRequestError
from cloister.model.node import Sample, SandboxMetrics
from cloister.store.base import Sandbox, Team

__all__ = [
    "CLIENT_ID",
    "ENVD_VERSION",
    "parse_connect",
    "parse_idempotency_key",
    "parse_new_sandbox",
    "parse_refresh",
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
"""What the agent claims to be compatible with; SDKs choose features by it."""
CLIENT_ID = "cloister"
DEFAULT_TIMEOUT_S = {1: 15, 2: 300}
"""By version of the creating call."""
_IDEMPOTENCY_KEY = re.compile(r"[a-z0-9-]{1,255}\Z")
_ALL_ADDRESSES = ("0.0.0.0/0",)


def parse_new_sandbox(body: object, *, api_version: int, idempotency_key: str | None) -> NewSandbox:
    """A creation, by ``POST /sandboxes`` (1) or ``POST /v2/sandboxes`` (2).

    Raises:
        InvalidRequestError: names the field that is missing, wrong, unknown or not supported.
    """
    fields = Fields(body)
    template = fields.take("templateID", str)
    timeout_s = fields.take("timeout", int, DEFAULT_TIMEOUT_S[api_version])
    metadata, envs = fields.take_texts("metadata"), fields.take_texts("envVars")
    secure = fields.take("secure", bool, api_version == 2)
    allow_internet = fields.take("allow_internet_access", bool, None)
    public_traffic, denies_all = _parse_network(fields.take("network", dict, {}))
    fields.take("mcp", dict, {})  # by itself it asks for nothing: the SDK starts the servers inside, with the keys that it has
    for name, neutral in (("autoPause", (False,)), ("autoPauseMemory", (True,)), ("iam", ({},)), ("volumeMounts", ([],))):
        fields.refuse(name, *neutral)
    resume = Fields(fields.take("autoResume", dict, {}), "autoResume.")
    resume.refuse("enabled", False)
    resume.end()
    fields.end()
    if not template.strip():
        raise InvalidRequestError("templateID must not be empty")
    if timeout_s < 1:
        raise InvalidRequestError("timeout must be at least 1")
    if api_version == 2 and not secure:
        raise InvalidRequestError("secure: false is not supported by this call; use POST /sandboxes")
    if not public_traffic and not secure:
        raise InvalidRequestError("network.allowPublicTraffic: false needs secure: true")
    _check_envs(envs)
    return NewSandbox(
        template=template,
        timeout_s=timeout_s,
        metadata=metadata,
        envs=envs,
        secure=secure,
        allow_internet=False if denies_all else allow_internet,
        public_traffic=public_traffic,
        idempotency_key=idempotency_key,
    )


def _parse_network(body: dict[str, Any]) -> tuple[bool, bool]:
    network = Fields(body, "network.")
    public_traffic = network.take("allowPublicTraffic", bool, True)
    network.refuse("allowOut", [])
    deny_out = network.take("denyOut", list, [])
    for name, neutral in (("rules", {}), ("dnsServers", None), ("egressProxy", {}), ("maskRequestHost", ""), ("httpsPorts", [])):
        network.refuse(name, neutral)
    network.end()
    if deny_out and tuple(deny_out) != _ALL_ADDRESSES:
        raise InvalidRequestError("network.denyOut is supported only as ['0.0.0.0/0'] by this server")
    return public_traffic, bool(deny_out)


def _check_envs(envs: dict[str, str]) -> None:
    for name, value in envs.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequestError(f"envVars.{name}: not a possible environment variable")


def parse_connect(body: object, *, api_version: int) -> int:
    """Seconds that a connecting client wants the sandbox to live."""
    fields = Fields(body)
    timeout_s: int = fields.take("timeout", int, *((DEFAULT_TIMEOUT_S[2],) if api_version == 2 else ()))
    fields.refuse("memory", True)
    fields.end()
    if timeout_s < 0:
        raise InvalidRequestError("timeout must not be negative")
    return timeout_s


def parse_timeout(body: object) -> int:
    """Seconds from now; 0 or less ends the sandbox."""
    fields = Fields(body)
    timeout_s: int = fields.take("timeout", int)
    fields.end()
    return timeout_s


def parse_refresh(body: object) -> int:
    """Seconds to prolong by, within the bounds of the published API."""
    fields = Fields(body)
    duration_s: int = fields.take("duration", int, 15)
    fields.end()
    if not 0 <= duration_s <= 3_600:
        raise InvalidRequestError("duration must be between 0 and 3600")
    return max(duration_s, 15)


def parse_idempotency_key(value: str | None) -> str | None:
    """The header's value, checked."""
    if value is not None and not _IDEMPOTENCY_KEY.match(value):
        raise InvalidRequestError("Idempotency-Key must be 1 to 255 of a-z, 0-9 and '-'")
    return value


def render_time(at: float) -> str:
    """Epoch seconds as RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def render_created(row: Sandbox, domain: str | None) -> dict[str, Any]:
    """``Sandbox`` of the contract."""
    return {
        "templateID": row.template_id,
        "sandboxID": row.sandbox_id,
        "clientID": CLIENT_ID,
        "alias": row.template,
        "envdVersion": ENVD_VERSION,
        **({} if row.access_token is None else {"envdAccessToken": row.access_token}),
        "trafficAccessToken": row.traffic_token,
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
        "endAt": render_time(row.end_at),
        "cpuCount": whole_cpus(row.cpu_count),
        "memoryMB": row.mem_mib,
        "diskSizeMB": row.disk_mib,
        "metadata": row.metadata,
        "state": "running",
        "envdVersion": ENVD_VERSION,
    }


def render_detail(row: Sandbox, domain: str | None) -> dict[str, Any]:
    """``SandboxDetail`` of the contract."""
    return {
        **render_listed(row),
        **({} if row.access_token is None else {"envdAccessToken": row.access_token}),
        "domain": domain,
        "allowInternetAccess": row.allow_internet,
        "network": {"allowPublicTraffic": row.traffic_token is None},
        "lifecycle": {"autoResume": False, "onTimeout": "kill"},
    }


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
    """``Team`` of the contract, to the holder of its key."""
    return {"teamID": team.team_id, "name": team.name, "apiKey": key, "isDefault": True}


def whole_cpus(cpu_count: float) -> int:
    """The contract has whole processors; a share of one counts as one."""
    return max(1, round(cpu_count))
