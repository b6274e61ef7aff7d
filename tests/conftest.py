"""Fixtures that every test group sees."""

from __future__ import annotations

pytest_plugins = ["framework.driver_root"]
