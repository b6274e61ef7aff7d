"""The examples of docs/howto/network.md, unmodified, through both official SDKs, on a pretend internet that has their hosts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox, SandboxQuery

from framework.client_programs import run_client_program
from framework.pretend_internet import PretendInternet
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "network.md").read_text()
BLOCKS = [
    (PAGE[: found.start()].rpartition("\n## ")[2].partition("\n")[0], found[1], found[2])
    for found in re.finditer(r"```(python|javascript)\n(.*?)```", PAGE, re.DOTALL)
]
"""Heading, language and code of each example."""
OPTIONS = ("allow_out", "deny_out", "rules", "egress_proxy", "dns_servers", "allow_public_traffic", "mask_request_host", "https_ports")
CAMEL = ("allowOut", "denyOut", "rules", "egressProxy", "allowPublicTraffic", "maskRequestHost", "httpsPorts")


def sandbox_ids(server: Server) -> set[str]:
    """The live sandboxes."""
    return {one.sandbox_id for one in Sandbox.list(SandboxQuery(), **server.sdk).next_items()}


@pytest.fixture
def cleaned(online_server: Server, internet: PretendInternet) -> Iterator[Server]:
    """The server; sandboxes that an example made are killed."""
    assert internet.hosts
    before = sandbox_ids(online_server)
    yield online_server
    for sandbox_id in sandbox_ids(online_server) - before:
        Sandbox.kill(sandbox_id, **online_server.sdk)


def test_every_option_has_an_example_in_each_sdk() -> None:
    """The JavaScript SDK has no resolvers to choose."""
    for language, names in (("python", OPTIONS), ("javascript", CAMEL)):
        code = "".join(code for _, used, code in BLOCKS if used == language)
        assert [name for name in names if name not in code] == []


@pytest.mark.parametrize(("heading", "language", "code"), BLOCKS, ids=[f"{language}-{heading}" for heading, language, _ in BLOCKS])
def test_example(heading: str, language: str, code: str, cleaned: Server, tmp_path: Path) -> None:
    """It runs to its end."""
    program = tmp_path / ("example.py" if language == "python" else "example.mjs")
    program.write_text(code)
    (tmp_path / "node_modules").symlink_to(ROOT / "tests" / "conformance" / "js" / "node_modules")
    command = [sys.executable if language == "python" else "node", str(program)]
    environ = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), **cleaned.environ}
    run_client_program(command, environ)
