"""Servers whose sandboxes run on gVisor. A host without ``runsc`` cannot run their tests: they fail there, with the remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cloister.config.load import load
from cloister.runtime.gvisor.program import find_runsc
from framework.server import Server, running_server

__all__ = ["gvisor_server", "runsc"]


@pytest.fixture(scope="session")
def runsc(stock_templates: None) -> None:
    """The program, beside the templates. Raises: UnavailableError, which says how to install it."""
    find_runsc(None, load(None, os.environ).store_dir)


@pytest.fixture(scope="module")
def gvisor_server(runsc: None) -> Iterator[Server]:
    """A server whose sandboxes run on gVisor; at its end nothing of it may be left on the host.

    It ends with its module: a host has few numbers for servers, and the parts of the suite that run side by side share them.
    """
    with running_server("--default-runtime", "gvisor") as running:
        yield running
