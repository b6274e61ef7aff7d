"""The settings that bound connections, teams, sandboxes, volumes and builds, in the form in which the control plane takes them."""

from __future__ import annotations

import resource

import structlog

from cloister.api.connections import ConnectionPolicy
from cloister.config.settings import Settings
from cloister.control.builds.requests import BuildSettings
from cloister.control.quotas import SandboxPolicy
from cloister.control.volumes import VolumePolicy
from cloister.model.team import TeamLimits

__all__ = ["build_settings", "connection_policy", "sandbox_policy", "volume_policy"]

_log = structlog.get_logger("cloister.processes")
_OWN_DESCRIPTORS = 512
"""Reserved for the store, logs, archives and the resolver."""


def connection_policy(settings: Settings) -> ConnectionPolicy:
    """The settings of connections. Each connection may need a second descriptor, for its connection into a sandbox."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(settings.max_connections, max(1, (descriptors - _OWN_DESCRIPTORS) // 2))
    if most < settings.max_connections:
        _log.warning("connections.bounded_by_descriptors", max_connections=most, descriptors=descriptors)
    return ConnectionPolicy(
        most=most,
        most_per_peer=settings.max_connections_per_peer,
        head_timeout_s=settings.head_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
    )


def team_limits(settings: Settings) -> TeamLimits:
    """The limits of a team that has none of its own."""
    return TeamLimits(
        sandboxes=settings.default_sandboxes_per_team,
        paused=settings.default_paused_per_team,
        cpu_count=settings.default_cpu_count_per_team,
        mem_mib=settings.default_mem_mib_per_team,
        disk_mib=settings.default_disk_mib_per_team,
        creations_per_s=settings.default_creations_per_s,
        network_mbit_per_s=settings.default_network_mbit_per_s_per_team,
        network_packets_per_s=settings.default_network_packets_per_s_per_team,
        network_connections_per_s=settings.default_network_connections_per_s_per_team,
        network_volume_mib_per_day=settings.default_network_volume_mib_per_day_per_team,
    )


def sandbox_policy(settings: Settings) -> SandboxPolicy:
    """The settings of sandboxes."""
    return SandboxPolicy(
        max_timeout_s=settings.max_timeout_s,
        max_per_team=settings.max_sandboxes_per_team,
        max_paused_per_team=settings.max_paused_per_team,
        max_disk_mib_per_team=settings.max_disk_mib_per_team,
        defaults=team_limits(settings),
    )


def volume_policy(settings: Settings) -> VolumePolicy:
    """The settings of volumes."""
    return VolumePolicy(
        default_mib=settings.default_volume_mib,
        max_mib=settings.max_volume_mib,
        most_per_team=settings.max_volumes_per_team,
    )


def build_settings(settings: Settings) -> BuildSettings:
    """The settings of template builds."""
    return BuildSettings(
        cpu_count=settings.default_cpu_count,
        mem_mib=settings.default_mem_mib,
        disk_mib=settings.default_disk_mib,
        max_cpu_count=settings.max_template_cpu_count,
        max_mem_mib=settings.max_template_mem_mib,
        max_disk_mib=settings.max_template_disk_mib,
        max_builds=settings.max_builds_per_team,
        max_templates=settings.max_templates_per_team,
    )
