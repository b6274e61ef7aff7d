"""Fixtures of whole servers, for the groups of tests that use the product as a client does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from framework.server import Server, running_server

__all__ = ["server", "stock_templates"]


@pytest.fixture(scope="session")
def stock_templates() -> None:
    """The stock templates and the agent in their present definition; takes a second when they are there."""
    subprocess.run([sys.executable, "-m", "cloister.cli.main", "template", "build", "all"], check=True)


@pytest.fixture(scope="session")
def server(stock_templates: None) -> Iterator[Server]:
    """One server for the whole run; at its end nothing of it may be left on the host."""
    with running_server() as running:
        yield running
