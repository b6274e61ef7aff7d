"""What the API adds to every answer."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cloister.api.app import rest_middleware
from cloister.api.metrics.counts import RequestCounts

_ID = "i" * 20


@pytest.mark.parametrize(
    ("path", "is_kept"),
    [
        ("/teams", False),
        (f"/sandboxes/{_ID}", False),
        ("/v2/sandboxes", False),
        ("/api-keys", False),
        ("/admin/teams", False),
        ("/audit", False),
        ("/templates", True),
        ("/teamsters", True),
    ],
)
async def test_no_cache_keeps_an_answer_with_a_key_or_a_token(path: str, is_kept: bool) -> None:
    """A cache in front of the server does not know that X-API-KEY tells clients apart."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="{}")

    app = web.Application(middlewares=[rest_middleware(RequestCounts())])
    app.router.add_get(path, answer)
    async with TestClient(TestServer(app)) as client, client.get(path) as got:
        assert got.headers.get("Cache-Control") == (None if is_kept else "no-store")
