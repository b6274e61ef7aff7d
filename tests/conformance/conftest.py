"""Fixtures of the conformance tests."""

from __future__ import annotations

from framework.control_plane import control_plane

__all__ = ["control_plane"]
