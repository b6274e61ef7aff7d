"""What every handler of the REST API has at hand, and how it reads and writes JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from cloister.control.builds import Builds
from cloister.control.keys import Keys
from cloister.control.logs import SandboxLogs
from cloister.control.sandboxes import Sandboxes
from cloister.control.snapshots import Snapshots
from cloister.control.templates import Templates
from cloister.control.uploads import Uploads
from cloister.errors import InvalidRequestError

__all__ = ["SANDBOX_ID", "TEAM_ID", "Api", "json_answer", "read_json"]

TEAM_ID = web.RequestKey("team_id", str)
SANDBOX_ID = web.RequestKey("sandbox_id", str)
"""What the log line of a request says of it."""


@dataclass(frozen=True)
class Api:
    """The use cases that the API renders, and the public domain that it tells clients of."""

    keys: Keys
    sandboxes: Sandboxes
    templates: Templates
    builds: Builds
    uploads: Uploads
    snapshots: Snapshots
    logs: SandboxLogs
    domain: str | None


def json_answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """``body`` as JSON."""
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", headers=headers)


async def read_json(request: web.Request, *, default: Any = None) -> Any:
    """The request's JSON body; ``default`` when it is empty and a default is given.

    Raises:
        InvalidRequestError: it is not JSON.
    """
    raw = await request.read()
    if not raw and default is not None:
        return default
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
