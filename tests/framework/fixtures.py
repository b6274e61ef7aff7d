"""Fixtures of whole servers, for the groups of tests that use the product as a client does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cloister.config.load import load
from cloister.node.runtimes import unpacked_criu
from framework.amazon import API_NAME, REGISTRY_NAME
from framework.postgres import Postgres
from framework.pretend_internet import NAMES, PRIVATE_ADDRESS, PretendInternet, pretend_internet
from framework.registry import NAME
from framework.server import Server, end_killed_servers, running_server

__all__ = ["clean_host", "criu", "internet", "online_server", "server", "stock_templates"]


@pytest.fixture(scope="session", autouse=True)
def clean_host() -> None:
    """Nothing is left of test runs that were killed."""
    if os.geteuid() == 0:
        end_killed_servers()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run. A test that kills it starts it again."""
    made = Postgres()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def stock_templates() -> None:
    """The stock templates and the agent in their present definition; takes a second when they are there."""
    subprocess.run([sys.executable, "-m", "cloister.cli.main", "template", "build", "all"], check=True)


@pytest.fixture(scope="session")
def criu(stock_templates: None) -> None:
    """A CRIU that works on this kernel, beside the templates."""
    if not unpacked_criu(load(None, os.environ)).is_dir():
        subprocess.run([sys.executable, "-m", "cloister.cli.main", "checkpoint", "install"], check=True)


@pytest.fixture(scope="session")
def server(stock_templates: None) -> Iterator[Server]:
    """One server for the whole run; at its end nothing of it may be left on the host."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendInternet]:
    """The one pretend internet of this network namespace, with names for a registry of images, and a private address."""
    names = (*NAMES, NAME, API_NAME, REGISTRY_NAME)
    with pretend_internet(tmp_path_factory.mktemp("internet"), names=names, addresses=(PRIVATE_ADDRESS,)) as made:
        yield made


@pytest.fixture(scope="session")
def online_server(stock_templates: None, internet: PretendInternet) -> Iterator[Server]:
    """A server beside the other one, whose sandboxes have a pretend internet that answers for httpbin.org."""
    with running_server("--dns-upstreams", internet.dns_address, "--extra-ca-file", str(internet.ca_file)) as running:
        yield running
