"""Which runtime owns which control group of a node, so that each removes only its own.

A group is named after its sandbox (``cloister/<n>/<sandbox id>``), whatever its runtime; a runtime claims the name before it makes the
group. A group that no runtime claims and that belongs to no known sandbox is a leftover, which the node ends (:meth:`Groups.sweep`).
Invariants: I6, I8. Runs in: supervisor and builds, any thread. Needs: root.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from cloister.errors import ConflictError
from cloister.linux.cgroup import CgroupTree
from cloister.model.resources import Limits

__all__ = ["Groups", "RuntimeGroups"]


class Groups:
    """The control groups of one node. Thread-safe."""

    def __init__(self, tree: CgroupTree) -> None:
        self.tree = tree
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}
        self._helpers: set[str] = set()

    def of(self, runtime: str) -> RuntimeGroups:
        """The groups of one runtime."""
        return RuntimeGroups(self, runtime)

    def claim(self, runtime: str, name: str, *, is_helper: bool = False) -> None:
        """Note that a runtime owns a group. ``is_helper``: sandboxes depend on its processes, so that no guard may stop them.

        Raises: ConflictError, when another runtime owns it.
        """
        with self._lock:
            if self._owners.setdefault(name, runtime) != runtime:
                raise ConflictError(f"control group {name} belongs to the runtime {self._owners[name]!r}")
            if is_helper:
                self._helpers.add(name)

    def disclaim(self, name: str) -> None:
        """Forget the owner of a group: if the group is still there, the next sweep ends it."""
        with self._lock:
            self._owners.pop(name, None)
            self._helpers.discard(name)

    def helpers(self) -> set[str]:
        """Names of groups that no guard may stop."""
        with self._lock:
            return set(self._helpers)

    def thaw_strangers(self, known: Callable[[], set[str]]) -> None:
        """Thaw every group that no runtime claims and whose name is not ``known``: v1 ends no frozen process. Raises: OSError."""
        found = self.tree.names()
        with self._lock:
            claimed = set(self._owners)
        for name in found - claimed - known():
            self.tree.thaw(name)

    def sweep(self, known: Callable[[], set[str]], tell: Callable[[str, Mapping[str, object]], None]) -> list[str]:
        """End every group that no runtime claims and whose name is not ``known``; says which."""
        found = self.tree.names()  # first: a group that is made after this look was claimed before it was made
        with self._lock:
            claimed = set(self._owners)
        return self._end(found - claimed - known(), tell)

    def end_all(self, tell: Callable[[str, Mapping[str, object]], None]) -> list[str]:
        """End every group, whoever has claimed it, frozen ones too; says which. For the end of the node, after the runtimes'."""
        self.tree.thaw_all()
        return self._end(self.tree.names(), tell)

    def _end(self, names: set[str], tell: Callable[[str, Mapping[str, object]], None]) -> list[str]:
        ended = []
        for name in names:
            try:
                self.tree.end(name)
            except OSError as error:  # one that cannot be removed must not keep the others
                tell("group.not_removed", {"name": name, "error": str(error)})
            else:
                ended.append(f"control group {name}")
        return ended


class RuntimeGroups:
    """The control groups of one runtime. Operations that need no owner are those of ``tree``. Thread-safe."""

    def __init__(self, groups: Groups, runtime: str) -> None:
        self.tree = groups.tree
        self._groups = groups
        self._runtime = runtime

    def create(self, name: str, limits: Limits | None, *, is_helper: bool = False) -> None:
        """Claim and make a group, as :meth:`CgroupTree.create`. The claim stays after an error, until :meth:`remove`.

        Raises: IsolationError, ConflictError.
        """
        self.claim(name, is_helper=is_helper)
        self.tree.create(name, limits)

    def claim(self, name: str, *, is_helper: bool = False) -> None:
        """Claim a group that is there since before this start. Raises: ConflictError."""
        self._groups.claim(self._runtime, name, is_helper=is_helper)

    def remove(self, name: str) -> None:
        """Remove a group whose processes have ended. Raises: OSError, when it is busy; the node's sweep tries again."""
        try:
            self.tree.remove(name)
        except OSError:  # busy: code in a helper that was given the group's files has put another process there
            self.tree.end(name)
        finally:
            self._groups.disclaim(name)
