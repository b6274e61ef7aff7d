"""The gVisor runtime as the registry knows it before a node opens it: :class:`cloister.runtime.registry.RuntimeKind`.

Runs in: supervisor, builds, ``cloister doctor`` and ``cloister census``. Needs: root to open it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cloister.linux.files import make_directory
from cloister.runtime.gvisor.probe import probe_once
from cloister.runtime.gvisor.program import Runsc, find_runsc, installed_runsc
from cloister.runtime.gvisor.runtime import RUNTIME, GvisorRuntime
from cloister.runtime.resources import NodeResources

__all__ = ["GvisorKind"]


class _Found:
    """Finds the program, and asks it for its version only when the file is another one."""

    def __init__(self, setting: Path | None, store_dir: Path) -> None:
        self._path = setting or installed_runsc(store_dir)
        self._find: Callable[[], Runsc] = partial(find_runsc, setting, store_dir)
        self._known: tuple[tuple[int, int], Runsc] | None = None

    def __call__(self) -> Runsc:
        """Raises: UnavailableError."""
        try:
            status = self._path.stat()
        except OSError:
            return self._find()
        mark = (status.st_ino, status.st_mtime_ns)
        if self._known is None or self._known[0] != mark:
            self._known = mark, self._find()
        return self._known[1]


@dataclass(frozen=True)
class GvisorKind:
    """See :class:`RuntimeKind`. ``runsc`` is the path of the program; None takes the one that is installed in the store."""

    runsc: Path | None = None
    store_dir: Path = Path("/var/lib/cloister/store")
    kernels: tuple[str, ...] = ()
    """Languages whose kernels are in images of booted templates, beside Python's."""
    name = RUNTIME

    def open(self, resources: NodeResources) -> GvisorRuntime:
        """See :class:`RuntimeKind`."""
        return GvisorRuntime(resources, _Found(self.runsc, self.store_dir), self.kernels)

    def try_out(self, run_root: Path) -> None:
        """See :class:`RuntimeKind`. A program that has worked since the host booted is not tried again."""
        found = find_runsc(self.runsc, self.store_dir)
        make_directory(run_root, 0o755, keep=True)
        probe_once(found.path, run_root / "runsc.json")

    def checks(self) -> dict[str, Callable[[], str]]:
        """See :class:`RuntimeKind`. A server works without it."""
        return {}

    def options(self) -> dict[str, Callable[[], str]]:
        """See :class:`RuntimeKind`. ``cloister doctor`` has a row for each runtime itself."""
        return {}

    def helper_groups(self, run_dir: Path) -> set[str]:
        """See :class:`RuntimeKind`. It has no helpers."""
        del run_dir
        return set()
