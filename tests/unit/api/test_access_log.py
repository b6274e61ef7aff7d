"""The access log: who asked for what, with which answer, and nothing that opens anything."""

from __future__ import annotations

import logging

from aiohttp import ClientSession, web
from aiohttp.test_utils import unused_port
from structlog.testing import capture_logs

from cloister.api.accesslog import access_log_class
from cloister.api.peers import Peers
from framework.waiting import turns


async def test_a_request_leaves_one_entry_without_its_query_and_headers() -> None:
    """The client is the one that a trusted proxy names; tokens of the query and of headers are in no field."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=202, text="fine")

    app, port = web.Application(), unused_port()
    app.router.add_get("/files/{name}", answer)
    runner = web.AppRunner(app, access_log=logging.getLogger("access"), access_log_class=access_log_class(Peers(["127.0.0.1/32"])))
    await runner.setup()
    with capture_logs() as entries:
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            headers = {"X-Forwarded-For": "192.0.2.9", "X-API-Key": "e2b_hidden", "E2b-Sandbox-Id": "i1", "User-Agent": "u" * 900}
            async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/files/a%2Fb?token=hidden", headers=headers) as got:
                assert got.status == 202
            while not entries:
                await turns(1)
        finally:
            await runner.cleanup()
    (entry,) = entries
    assert entry["bytes"] > len("fine")
    assert {**entry, "seconds": 0, "bytes": 0} == {
        "event": "request.answered",
        "log_level": "info",
        "client": "192.0.2.9",
        "method": "GET",
        "host": f"127.0.0.1:{port}",
        "path": "/files/a%2Fb",
        "sandbox_id": "i1",
        "status": 202,
        "bytes": 0,
        "seconds": 0,
        "user_agent": "u" * 512,
    }
    assert "hidden" not in str(entry)
