"""Events of a sandbox's log: their levels, and the answer to ``GET /logs`` of the agent (docs/architecture.md, "Metrics and logs")."""

from __future__ import annotations

__all__ = ["LOG_LEVELS"]

LOG_LEVELS = ("debug", "info", "warn", "error")
"""Least severe first."""
