"""A start command runs once in a sandbox's life. The work of a sandbox created ahead is seen by no other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from cloister.node.builds.trial import _languages
from framework.server import Server, running_server
from framework.starts import creation_of
from framework.template_store import store_with, variant


@pytest.fixture(scope="module")
def starting(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a template that starts something."""
    template = variant("code-interpreter-v1", "begins", workdir="/home/user", start_cmd="echo begun >> begun; exec sleep infinity")
    store = store_with(tmp_path_factory.mktemp("starts") / "store", template)
    with running_server("--store-dir", str(store), "--pool-size", "1") as server:
        yield server


@pytest.mark.root
@pytest.mark.templates
def test_start_command_cannot_be_had_again_by_killing_the_agent(starting: Server) -> None:
    """An agent that comes back has not the descriptor by which the first one knew that it was the first."""
    with Sandbox.create("begins", timeout=120, **starting.sdk) as sandbox:
        before = sandbox.commands.run("pgrep -o -f agent/main.py", user="root").stdout
        with contextlib.suppress(SandboxException, httpx.HTTPError):
            sandbox.commands.run("pkill -9 -f agent/main.py", user="root", timeout=5)
        after, deadline = before, time.monotonic() + 30
        while after == before and time.monotonic() < deadline:
            time.sleep(0.3)
            with contextlib.suppress(SandboxException, httpx.HTTPError):
                after = sandbox.commands.run("pgrep -o -f agent/main.py", user="root", timeout=5).stdout
        assert after != before
        time.sleep(2)
        assert sandbox.files.read("begun") == "begun\n"


@pytest.mark.root
@pytest.mark.templates
def test_what_had_the_internet_is_not_given_to_one_without(starting: Server) -> None:
    """A start command ran ahead with the internet: a creation that must have none gets a sandbox that never had it."""
    for _ in range(60):
        with Sandbox.create("begins", timeout=120, **starting.sdk) as sandbox:
            if creation_of(starting, sandbox)["made_ahead"]:
                break
        time.sleep(1)
    else:
        pytest.fail("no creation was served from the pool")
    for _ in range(3):
        time.sleep(3)
        with Sandbox.create("begins", timeout=120, allow_internet_access=False, **starting.sdk) as sandbox:
            assert not creation_of(starting, sandbox)["made_ahead"]


@pytest.mark.parametrize(
    "row",
    [
        ["python", "relative/python3"],
        ["python", "/a\nargv=/b"],
        ["python", "/a\0b"],
        ["python", "/" + "x" * 1000],
        ["cobol", "/a"],
        ["python", 1],
    ],
)
def test_words_of_a_build_sandbox_are_no_programs(row: list[Any]) -> None:
    """A hostile template's languages cannot change the command that starts a zygote; only a path is accepted."""
    assert _languages({"languages": [row]}) == {}
