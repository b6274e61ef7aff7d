"""Which templates of clients were asked for of late, kept over a restart of the server, so that their first creations after it are quick.

Owns ``<data>/node/recent.json``: build ids and when each was last asked for. Nothing depends on it: a file that is gone or broken means
that nothing is made ready ahead. Event loop only.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from cloister.errors import CloisterError
from cloister.ids import is_build_id
from cloister.linux.files import write_whole

__all__ = ["Recent"]

_log = structlog.get_logger("cloister.node.recent")
_MOST = 3
"""Templates made ready at a start: each costs up to some seconds of a processor and holds a zone with its zygotes."""
_DAY_S = 86_400.0
_WRITE_INTERVAL_S = 60.0


class Recent:
    """The last few builds that were asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = self._load()
        self._written_at = 0.0

    def note(self, template: str) -> None:
        """A template is asked for; only builds of clients are kept, by their ids."""
        if not is_build_id(template):
            return
        is_new = template not in self._asked
        self._asked[template] = time.time()
        for build_id in sorted(self._asked, key=lambda build_id: -self._asked[build_id])[_MOST:]:
            del self._asked[build_id]
        if is_new or time.monotonic() - self._written_at > _WRITE_INTERVAL_S:
            self._written_at = time.monotonic()
            with contextlib.suppress(OSError):  # the disk is full: the first creation after the next start is slower
                write_whole(self._path, json.dumps(self._asked))

    def newest(self) -> list[str]:
        """The builds to make ready: asked for within a day, the last one first."""
        since = time.time() - _DAY_S
        return sorted((build_id for build_id, asked_at in self._asked.items() if asked_at > since), key=lambda one: -self._asked[one])

    async def warm(self, always: Sequence[str], warm: Callable[[str], Awaitable[None]]) -> None:
        """Make them ready by ``warm``, one after another, after the templates that always are."""
        for template in (*always, *self.newest()):
            try:
                await warm(template)
            except (CloisterError, OSError) as error:  # it was dropped, for one: its next creation says what is wrong
                _log.info("template.not_warm", template=template, error=str(error))

    def _load(self) -> dict[str, float]:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(self._path.read_text())
            if isinstance(said, dict):
                return {one: float(at) for one, at in list(said.items())[:_MOST] if is_build_id(one) and isinstance(at, (int, float))}
        return {}
