"""The record of a sandbox's connections as the API shows it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from cloister.api.handlers import Api
from cloister.api.network_record import connections
from cloister.errors import InvalidRequestError
from cloister.model.log import LogEntry
from cloister.model.team import Team

ID = "a" * 20
TEAM = cast("Team", SimpleNamespace(team_id="team"))


def entry(at_ms: int, event: str = "network.connection", logger: str = "node", **fields: str) -> LogEntry:
    """An entry of a log."""
    return LogEntry(at_ms=at_ms, level="info", logger=logger, event=event, fields=fields)


ALLOWED = {"verdict": "allowed", "rule": "public", "protocol": "tcp", "address": "198.51.100.81", "port": "443", "name": "api.example.net"}
LOG = [
    entry(1, "sandbox.created", "api"),
    entry(2000, **ALLOWED, began_at="1.500", duration_s="0.500", sent_bytes="10", received_bytes="20", count="1"),
    entry(3000, "network.refused", destination="10.0.0.1", protocol="tcp", port="22", reason="not_public", count="3"),
    entry(3001, "network.refused_others", count="9"),
    entry(3002, logger="agent", **ALLOWED),
    *(entry(4000 + number, **ALLOWED, name_from="lookup") for number in range(5)),
]


async def ask(query: str = "") -> tuple[list[dict[str, Any]], str | None]:
    """The answer to a request, and the token of the next page."""

    async def read(team_id: str, sandbox_id: str, *, ask_agent: bool) -> list[LogEntry]:
        assert (team_id, sandbox_id, ask_agent) == ("team", ID, False)
        return LOG

    request = make_mocked_request("GET", f"/sandboxes/{ID}/connections{query}", match_info={"sandbox_id": ID})
    answer = await connections(cast("Api", SimpleNamespace(logs=SimpleNamespace(read=read))), request, TEAM)
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body), answer.headers.get("X-Next-Token")


async def test_a_record_has_every_field() -> None:
    """Of a connection, and of packets that the kernel refused. What the sandbox itself writes is no record."""
    found, token = await ask()
    assert (len(found), token) == (8, None)
    assert found[0] == {
        "timestamp": "1970-01-01T00:00:01.500Z",
        "recordedAt": "1970-01-01T00:00:02.000Z",
        "protocol": "tcp",
        "address": "198.51.100.81",
        "port": 443,
        "name": "api.example.net",
        "nameFrom": "connection",
        "verdict": "allowed",
        "rule": "public",
        "sentBytes": 10,
        "receivedBytes": 20,
        "durationSeconds": 0.5,
        "count": 1,
    }
    assert [found[3][name] for name in ("name", "nameFrom")] == ["api.example.net", "lookup"]
    assert [found[1][name] for name in ("address", "port", "verdict", "rule", "count")] == ["10.0.0.1", 22, "refused", "not_public", 3]
    assert [found[2][name] for name in ("address", "verdict", "rule", "count")] == [None, "refused", "others", 9]


async def test_filters_and_pages() -> None:
    """By verdict and time; pages neither overlap nor leave gaps."""
    assert [one["verdict"] for one in (await ask("?verdict=refused"))[0]] == ["refused", "refused"]
    assert len((await ask("?since=4000"))[0]) == 5
    found, token = await ask("?limit=3&verdict=allowed")
    while token:
        more, token = await ask(f"?limit=3&verdict=allowed&nextToken={token}")
        found += more
    assert [one["recordedAt"][17:23] for one in found] == ["02.000", "04.000", "04.001", "04.002", "04.003", "04.004"]


@pytest.mark.parametrize("query", ["?verdict=maybe", "?since=-1", "?limit=0", "?limit=1001", "?nextToken=x"])
async def test_malformed_queries_are_refused(query: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidRequestError):
        await ask(query)
