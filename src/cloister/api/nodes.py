"""REST handlers of a cluster's nodes: for the operator, by a key of the scope ``admin``, and for a machine that joins, by its token."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloister.api.auth import slow_failures
from cloister.api.bodies import read_json
from cloister.api.fields import Fields
from cloister.api.handlers import OBJECT_ID, Api, json_answer
from cloister.api.schemas import render_listed, render_time
from cloister.control.nodes import Joining, NodeStatus, NodeView
from cloister.errors import InvalidRequestError
from cloister.model.node import NodeInfo
from cloister.model.sandbox import SandboxState

__all__ = ["JOIN_PATH", "change_node", "get_node", "join", "list_nodes", "remove_node"]

JOIN_PATH = "/cluster/join"
_CHANGES = {NodeStatus.READY: False, NodeStatus.DRAINING: True}


async def list_nodes(api: Api, _request: web.Request) -> web.Response:
    """``GET /nodes``."""
    return json_answer([_render(view) for view in await api.nodes.list()])


async def get_node(api: Api, request: web.Request) -> web.Response:
    """``GET /nodes/{node_id}``: the node with its sandboxes and templates."""
    view = await api.nodes.get(request.match_info["node_id"])
    sandboxes = [{**render_listed(row), "teamID": row.team_id} for row in view.sandboxes]
    return json_answer({**_render(view), "sandboxes": sandboxes, "cachedBuilds": list(view.sight.templates)})


async def change_node(api: Api, request: web.Request) -> web.Response:
    """``POST /nodes/{node_id}``: ``draining``, or ``ready`` again. The other states of the published API are observed, not set."""
    fields = Fields(await read_json(api, request))
    status = fields.take("status", str)
    if status not in _CHANGES:
        raise InvalidRequestError("status must be ready or draining")
    await api.nodes.drain(request.match_info["node_id"], is_on=_CHANGES[NodeStatus(status)])
    return web.Response(status=204)


async def remove_node(api: Api, request: web.Request) -> web.Response:
    """``DELETE /nodes/{node_id}``: a node that has no sandbox. Not in the published API."""
    await api.nodes.remove(request.match_info["node_id"])
    return web.Response(status=204)


async def join(api: Api, request: web.Request) -> web.Response:
    """``POST /cluster/join``: without a key; the token of the body counts."""
    fields = Fields(await read_json(api, request), is_strict=True)
    joining = Joining(
        token_id=fields.take("tokenID", str),
        expires_at=fields.take("expiresAt", int),
        node_id=fields.take("nodeID", str),
        address=fields.take("address", str),
        request=fields.take("request", str),
        nonce=fields.take("nonce", str),
        mark=fields.take("mark", str),
    )
    fields.end()
    joined = await slow_failures(api, request, api.nodes.join(joining))
    request[OBJECT_ID] = joining.node_id
    return json_answer({"certificate": joined.certificate, "authority": joined.authority, "mark": joined.mark}, status=201)


def _render(view: NodeView) -> dict[str, Any]:
    info, row = view.sight.info, view.row
    creating = sum(one.state is SandboxState.CREATING for one in view.sandboxes)
    return {
        "nodeID": row.node_id,
        "id": row.node_id,
        "clusterID": "cluster",
        "serviceInstanceID": row.node_id,
        "address": row.address,
        "joinedAt": render_time(row.joined_at),
        "version": "" if info is None else info.version,
        "commit": "",
        "status": view.status,
        "trouble": view.sight.trouble,
        "sandboxCount": len(view.sandboxes) - creating,
        "sandboxStartingCount": creating,
        "createSuccesses": 0 if info is None else sum(info.creations.get(way, 0) for way in ("made_ahead", "forked", "cold")),
        "createFails": 0 if info is None else info.creations.get("failed", 0),
        "metrics": _metrics(view, info),
        "machineInfo": {"cpuFamily": "", "cpuModel": "", "cpuModelName": "", "cpuArchitecture": ""},
    }


def _metrics(view: NodeView, info: NodeInfo | None) -> dict[str, Any]:
    running = [one for one in view.sandboxes if one.state is not SandboxState.PAUSED]
    room = {} if info is None else info.room
    memory = {} if info is None else info.memory
    total = room.get("mem_mib", 0) << 20
    return {
        "allocatedCPU": round(sum(one.cpu_count for one in running)),
        "allocatedMemoryBytes": sum(one.mem_mib for one in running) << 20,
        "cpuPercent": 0,
        "cpuCount": room.get("cpu_count", 0),
        "memoryUsedBytes": max(0, total - memory.get("available", total)),
        "memoryTotalBytes": total,
        "disks": [],
    }
