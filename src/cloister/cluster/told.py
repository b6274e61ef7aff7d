"""A check of each answer of a node against its request: no node has a say about the sandboxes of another one. Pure but for the calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloister.cluster.base import NodeClient
from cloister.errors import InternalError
from cloister.ids import is_sandbox_id
from cloister.model.node import EndedSandbox, NodeInfo, PausedSandbox, SandboxNote
from cloister.model.sandbox import SandboxRecord
from cloister.nodewire.methods import Method, NodeEvent, calls_through
from cloister.nodewire.requests import SandboxPage

__all__ = ["can_be", "within_its_say"]

_LAST = 1 << 37
"""Seconds since the epoch; :class:`datetime.datetime` knows no much later time."""


def within_its_say(node: NodeClient, node_id: str) -> NodeClient:
    """The same client. It raises InternalError if the node gives itself another id, or answers with another sandbox or senseless times."""

    async def call(method: Method, request: Any) -> Any:
        answer = await getattr(node, method.name)(request)
        if isinstance(answer, NodeInfo) and answer.node_id != node_id:
            raise InternalError(f"the gate of {node_id} leads to {answer.node_id[:64]}")
        if isinstance(answer, SandboxRecord) and answer.sandbox_id != request.sandbox_id:
            raise InternalError(f"{node_id} answers {method.name} of {request.sandbox_id} with another sandbox")
        if not all(_can_be(one) for one in _parts(answer)):
            raise InternalError(f"{node_id} answers {method.name} with what cannot be")
        return answer

    return calls_through(call)


def can_be(event: NodeEvent) -> bool:
    """Whether the times of an event are some. Not all numbers of JSON are: they may be infinite, or none."""
    match event:
        case EndedSandbox() | SandboxNote():
            return _is_time(event.at)
        case PausedSandbox():
            return _is_time(event.pause.at)
    return True


def _parts(answer: Any) -> Sequence[Any]:
    if isinstance(answer, SandboxPage):
        return answer.sandboxes
    return answer if isinstance(answer, tuple) else (answer,)


def _can_be(one: Any) -> bool:
    if isinstance(one, SandboxRecord):
        times = (one.started_at, one.end_at, 0.0 if one.pause is None else one.pause.at)
        return is_sandbox_id(one.sandbox_id) and all(map(_is_time, times))
    return not isinstance(one, EndedSandbox) or can_be(one)


def _is_time(at: float) -> bool:
    return 0 <= at < _LAST
