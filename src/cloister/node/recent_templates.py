"""The clients' templates that were used lately. A restarted server prepares them, so that their first creations are quick.

Owns ``<data>/node/recent.json``: build ids, each with the time of its last use. It is best effort: without a readable file no template is
prepared. Event loop only.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from cloister.errors import CloisterError, TemplateNotFoundError
from cloister.ids import is_build_id
from cloister.linux.files import write_whole

__all__ = ["RecentTemplates"]

_log = structlog.get_logger("cloister.node.recent_templates")
_MOST = 3
"""Templates that are kept. Each one costs up to some seconds of a processor at a start, and occupies a zone with its zygotes."""
_DAY_S = 86_400.0
_WRITE_INTERVAL_S = 60.0


class RecentTemplates:
    """The builds that clients used last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = self._load()
        self._written_at = 0.0

    def note(self, template: str) -> None:
        """A client uses a template. Only clients' builds are kept, by their ids."""
        if not is_build_id(template):
            return
        is_new = template not in self._asked
        self._asked[template] = time.time()
        for build_id in sorted(self._asked, key=lambda build_id: -self._asked[build_id])[_MOST:]:
            del self._asked[build_id]
        if is_new or time.monotonic() - self._written_at > _WRITE_INTERVAL_S:
            self._write()

    def newest(self) -> list[str]:
        """The builds to prepare: those used within a day, the last one first."""
        since = time.time() - _DAY_S
        return sorted((build_id for build_id, asked_at in self._asked.items() if asked_at > since), key=lambda one: -self._asked[one])

    async def warm(self, always: Sequence[str], warm: Callable[[str], Awaitable[None]]) -> None:
        """Prepare templates by ``warm``, one after another: first those of ``always``, then :meth:`newest`."""
        for template in (*always, *self.newest()):
            try:
                await warm(template)
            except TemplateNotFoundError as error:
                if self._asked.pop(template, None) is None:
                    _log.warning("template.not_warm", template=template, error=str(error))
                self._write()  # a build that was dropped is forgotten
            except (CloisterError, OSError) as error:  # its next creation reports the cause
                _log.info("template.not_warm", template=template, error=str(error))

    def _write(self) -> None:
        self._written_at = time.monotonic()
        with contextlib.suppress(OSError):  # the disk is full: the first creation after the next start is slower
            write_whole(self._path, json.dumps(self._asked))

    def _load(self) -> dict[str, float]:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(self._path.read_text())
            if isinstance(said, dict):
                return {one: float(at) for one, at in list(said.items())[:_MOST] if is_build_id(one) and isinstance(at, (int, float))}
        return {}
