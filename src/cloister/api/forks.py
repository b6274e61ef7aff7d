"""The REST handler of forks: parse, call control, render."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.errors import status_of
from cloister.api.fields import Fields
from cloister.api.handlers import NO_RETRY, Api, json_answer, path_sandbox_id
from cloister.api.schemas import DEFAULT_TIMEOUT_S, render_created
from cloister.control.forks import Copy, NewFork
from cloister.errors import CloisterError, InvalidRequestError
from cloister.model.team import Team

__all__ = ["fork"]

_MAX_COPIES = 100
_MEMORY_HEADER = "X-Fork-Memory"
"""For clients of the SDKs, whose ``fork`` has no parameter for it."""


async def fork(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /sandboxes/{sandbox_id}/fork``: an entry for each copy, in order, with the sandbox or the error."""
    request[NO_RETRY] = True
    new = _parse(await read_json(api, request, default={}), request.headers.get(_MEMORY_HEADER))
    copies = await api.forks.fork(team.team_id, path_sandbox_id(request), new)
    return json_answer([_render(one, api.domain) for one in copies], status=201)


def _parse(body: object, header: str | None) -> NewFork:
    """``SandboxForkRequest``, and ``memory``, which only this server has. Raises: InvalidRequestError."""
    fields = Fields(body)
    timeout_s, count = fields.take("timeout", int, DEFAULT_TIMEOUT_S[1]), fields.take("count", int, 1)
    memory = fields.take("memory", bool, None)
    fields.end()
    if timeout_s < 1:
        raise InvalidRequestError("Timeout must be greater than 0")
    if not 1 <= count <= _MAX_COPIES:
        raise InvalidRequestError(f"count must be between 1 and {_MAX_COPIES}")
    if header is not None and header not in {"true", "false"}:
        raise InvalidRequestError(f"the header {_MEMORY_HEADER} must be true or false")
    if memory is None:
        memory = header != "false"
    return NewFork(count=count, timeout_s=timeout_s, memory=memory)


def _render(copy: Copy, domain: str) -> dict[str, Any]:
    """``SandboxForkResult``: exactly one of the two; the SDKs cannot read null."""
    if isinstance(copy, CloisterError):
        return {"error": {"code": status_of(copy), "message": str(copy)}}
    return {"sandbox": render_created(copy, domain)}
