"""The outcome of a request in its audit record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from cloister.api.audit import recorded
from cloister.api.handlers import Api
from cloister.api.peers import Peers
from cloister.errors import NotFoundError
from cloister.model.audit import AuditRecord
from cloister.model.team import Team


@dataclass
class Log:
    """Keeps records in memory."""

    records: list[AuditRecord] = field(default_factory=list)

    def check_writable(self) -> None:
        """It is."""

    def add(self, record: AuditRecord) -> None:
        """Keep it."""
        self.records.append(record)


@dataclass
class Parts:
    """The parts of the API that records need."""

    audit: Log = field(default_factory=Log)
    peers: Peers = field(default_factory=lambda: Peers(()))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, (204, None)),
        (NotFoundError("none"), (404, "not_found")),
        (web.HTTPRequestTimeout(), (408, "invalid_request")),
        (ZeroDivisionError(), (500, "internal")),
        (asyncio.CancelledError(), (499, "cancelled")),
    ],
)
async def test_a_record_says_whether_the_change_was_made(fault: BaseException | None, expected: tuple[int, str | None]) -> None:
    """Only without an error it was made. Of a client that went away it is not known."""

    async def handle(_api: Api, _request: web.Request, _team: Team) -> web.Response:
        if fault is not None:
            raise fault
        return web.Response(status=204)

    parts, team = Parts(), Team(team_id="team_1", name="one", created_at=0.0)
    work = recorded("DELETE", "/secrets/{secret_id}", handle)(cast("Api", parts), make_mocked_request("DELETE", "/secrets/x"), team)
    if fault is None:
        await work
    else:
        with pytest.raises(type(fault)):
            await work
    (record,) = parts.audit.records
    assert (record.status, record.error, record.action) == (*expected, "secret.delete")
