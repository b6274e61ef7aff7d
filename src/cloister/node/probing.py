"""Tries, when the node has started, the capabilities of runtimes that only a sandbox can prove.

A throw-away sandbox of the base template is made for it, which no list shows. It must not delay the start, nor fail it.
Runs in: supervisor. Needs: root.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from cloister.errors import CloisterError
from cloister.ids import new_sandbox_id
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.node.catalog import Catalog
from cloister.runtime.registry import Runtimes

__all__ = ["probe_runtimes"]

_TEMPLATE = "base"
_log = structlog.get_logger("cloister.node")


async def probe_runtimes(runtimes: Runtimes, catalog: Catalog, boxes: Path) -> None:
    """Try them on every runtime, one after another. ``boxes`` is the directory for sandboxes that are no client's."""
    await asyncio.to_thread(_probe, runtimes, catalog, boxes)


def _probe(runtimes: Runtimes, catalog: Catalog, boxes: Path) -> None:
    try:
        found = catalog.resolve(_TEMPLATE, "")
    except CloisterError as error:  # no template is built yet: the next start tries again
        _log.info("runtime.not_probed", error=str(error))
        return
    for runtime in runtimes.all():
        now = time.time()
        request = SandboxRequest(sandbox_id=new_sandbox_id(), template=_TEMPLATE, end_at=now)
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            template=_TEMPLATE,
            runtime=runtime.name,
            state=SandboxState.CREATING,
            started_at=now,
            end_at=now,
            limits=found.limits,
        )
        runtime.probe(catalog.spec(request, found, record, boxes / request.sandbox_id))
