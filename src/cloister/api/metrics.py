"""``GET /metrics``: what the server does, as Prometheus reads it (text format 0.0.4). Any team's key may read it; it names no sandbox."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from cloister.api.handlers import Api
from cloister.store.base import Team

__all__ = ["metrics"]

_WAYS = ("made_ahead", "forked", "cold")
_UNENDED = ("waiting", "building")
_ENDED = ("ready", "error")


async def metrics(api: Api, _request: web.Request, _team: Team) -> web.Response:
    """Sandboxes that live, how they were started, whether zygotes are ready, and how builds are going."""
    node = await api.sandboxes.node_info()
    lines = [
        *_metric("cloister_sandboxes", "gauge", "Live sandboxes.", {"": api.sandboxes.count()}),
        *_metric(
            "cloister_creations_total",
            "counter",
            "Sandboxes created since the supervisor started; cold: a process of it was started anew, not forked from a zygote.",
            {f'start="{way}"': node.creations.get(way, 0) for way in _WAYS},
        ),
        *_metric(
            "cloister_builds",
            "gauge",
            "Template builds that wait or run.",
            {f'status="{name}"': node.builds.get(name, 0) for name in _UNENDED},
        ),
        *_metric(
            "cloister_builds_ended_total",
            "counter",
            "Template builds that ended since the supervisor started; a cancelled one is an error.",
            {f'status="{name}"': node.builds.get(name, 0) for name in _ENDED},
        ),
        *_metric("cloister_zygotes", "gauge", "Zygotes that are ready.", {f'kind="{kind}"': n for kind, n in node.zygotes.items()}),
    ]
    return web.Response(body="".join(lines).encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _metric(name: str, kind: str, text: str, values: Mapping[str, int]) -> list[str]:
    head = [f"# HELP {name} {text}\n", f"# TYPE {name} {kind}\n"]
    return head + [f"{name}{'{' + labels + '}' if labels else ''} {value}\n" for labels, value in values.items()]
