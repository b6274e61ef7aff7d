"""A server whose state is in PostgreSQL, and two api processes that share it and a supervisor."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox, SandboxNotFoundException, SandboxState

from framework.http import call
from framework.postgres import Postgres
from framework.second_api import SecondApi, second_api
from framework.server import Server, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[str]:
    """The address of the database, which the server finds in its environment."""
    url = postgres.new_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOISTER_DATABASE_URL", url)
        yield url


@pytest.fixture(scope="module")
def shared(stock_templates: None, database: str) -> Iterator[Server]:
    """The server."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def second(shared: Server, database: str) -> Iterator[SecondApi]:
    """Another api process of the same supervisor and database."""
    with second_api(shared, database) as made:
        yield made


def _listed(api: Server | SecondApi) -> set[str]:
    return {info.sandbox_id for info in Sandbox.list(**_management(api)).next_items()}


def _management(api: Server | SecondApi) -> dict[str, Any]:
    return {"api_key": api.sdk["api_key"], "api_url": api.sdk["api_url"]}


def test_a_server_works_on_postgresql(shared: Server, database: str) -> None:
    """Code, files, a pause and a kill; the state is in the database, and no file of SQLite is there."""
    with Sandbox.create("base", timeout=600, **shared.sdk) as sandbox:
        assert sandbox.commands.run("echo $((6 * 7))").stdout == "42\n"
        sandbox.files.write("/tmp/a", "b")
        sandbox.pause()
        again = Sandbox.connect(sandbox.sandbox_id, **shared.sdk)
        assert again.files.read("/tmp/a") == "b"
    assert not (shared.data_dir / "api" / "cloister.db").exists()
    assert sandbox.sandbox_id in shared.cli("ps", "--all", "--json").stdout
    assert json.loads(shared.cli("team", "list", "--json").stdout)


def test_the_password_is_in_no_command_line_and_no_log(shared: Server, database: str) -> None:
    """Neither as text, nor in what the commands show."""
    password = database.split(":")[2].partition("@")[0]
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    assert not [line for line in lines if password.encode() in line]
    shown = shared.cli("config", "show", "--json").stdout
    assert "(secret)" in shown
    assert password not in shown + shared.log.read_text()


def test_a_sandbox_of_one_process_is_the_others_too(shared: Server, second: SecondApi) -> None:
    """It is listed, reached, paused, resumed and killed there at once. The first process knows."""
    for makes, uses in ((shared, second), (second, shared)):
        made = Sandbox.create("base", timeout=600, metadata={"a": "b"}, **makes.sdk)
        assert made.sandbox_id in _listed(uses)
        there = Sandbox.connect(made.sandbox_id, **uses.sdk)
        assert there.commands.run("echo $((6 * 7))").stdout == "42\n"
        there.pause()
        assert Sandbox.get_info(made.sandbox_id, **_management(makes)).state == SandboxState.PAUSED
        back = Sandbox.connect(made.sandbox_id, **makes.sdk)
        assert back.commands.run("echo here").stdout == "here\n"
        assert there.commands.run("echo there").stdout == "there\n"
        assert Sandbox.kill(made.sandbox_id, **_management(uses))
        with pytest.raises(SandboxNotFoundException):
            Sandbox.get_info(made.sandbox_id, **_management(makes))
        assert made.sandbox_id not in _listed(makes)


def test_traffic_reaches_a_sandbox_that_the_process_has_not_heard_of(shared: Server, second: SecondApi) -> None:
    """The first request after a creation elsewhere is answered by the sandbox, again and again."""
    for _ in range(5):
        made = Sandbox.create("base", timeout=600, secure=False, **shared.sdk)
        answer = call(second.url, "GET", "/health", headers={"E2b-Sandbox-Id": made.sandbox_id, "E2b-Sandbox-Port": "49983"})
        assert answer.status == 204, answer.body
        made.kill()


def test_traffic_goes_on_without_the_database(shared: Server, second: SecondApi, postgres: Postgres) -> None:
    """Both processes reach a running sandbox. Changes get 503 and say why. All works again when the database is back."""
    made = Sandbox.create("base", timeout=600, **shared.sdk)
    there = Sandbox.connect(made.sandbox_id, **second.sdk)
    postgres.kill()
    try:
        assert made.commands.run("echo here").stdout == "here\n"
        assert there.commands.run("echo $((6 * 7))").stdout == "42\n"
        for api in (shared, second):
            began = time.monotonic()
            answer = call(api.url, "POST", "/sandboxes", headers={"X-API-KEY": api.sdk["api_key"]}, body=b'{"templateID": "base"}')
            assert (answer.status, json.loads(answer.body)["code"]) == (503, 503)
            assert b"database" in answer.body
            assert time.monotonic() - began < 60, "a client is told before it gives up"
    finally:
        postgres.start()

    def works() -> bool:
        return all(
            call(api.url, "GET", "/v2/sandboxes", headers={"X-API-KEY": api.sdk["api_key"]}).status == 200 for api in (shared, second)
        )

    eventually(works, timeout_s=120)
    new = Sandbox.create("base", timeout=60, **second.sdk)
    assert {new.sandbox_id, made.sandbox_id} <= _listed(shared)
    for sandbox in (new, made):
        sandbox.kill()
    assert second.process.poll() is None
