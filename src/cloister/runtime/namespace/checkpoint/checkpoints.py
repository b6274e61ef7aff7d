"""Checkpoints as the namespace runtime uses them: whether they work on this host, and the two acts.

Runs in: supervisor, in worker threads. Needs: root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cloister.errors import CloisterError, ConflictError, NoCapacityError, UnavailableError
from cloister.linux.cgroup import CgroupTree
from cloister.runtime.appearance import processors
from cloister.runtime.namespace.checkpoint.criu import INSTALL_HINT, Criu, find_criu
from cloister.runtime.namespace.checkpoint.dump import HINT, ROOM, Dumper, Subject
from cloister.runtime.namespace.checkpoint.facts import KernelFacts
from cloister.runtime.namespace.checkpoint.filter import compile_dump_filter
from cloister.runtime.namespace.checkpoint.manifest import Manifest, read_manifest
from cloister.runtime.namespace.checkpoint.restore import restore_into
from cloister.runtime.namespace.plan import Payload, Restored
from cloister.runtime.namespace.slots import StartedSlot
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import SandboxSpec

__all__ = ["Checkpoints", "restored_payload"]


class Checkpoints:
    """Of one runtime. Thread-safe."""

    def __init__(self, setting: str | None, resources: NodeResources, groups: CgroupTree, sandbox_filter: bytes) -> None:
        """``setting`` is that of the name ``checkpoint``; None: they are off. Nothing is tried yet."""
        self._setting = setting
        self._store_dir, self._space = resources.store_dir, resources.space
        self._groups = groups
        self._sandbox_filter = sandbox_filter
        self._criu: Criu | None = None
        self._trial: tuple[str, Criu] | None = None
        """While they are tried: the id of the throw-away sandbox, and the CRIU that it is saved by."""
        self.works = False
        """Whether :meth:`prove` has seen a dump and a restore succeed."""

    def prove(self, sandbox_id: str, attempt: Callable[[], None], tell: Callable[[str, Mapping[str, object]], None]) -> None:
        """Find CRIU and let ``attempt`` dump and restore a sandbox of that id. They are used only if that succeeds."""
        if self._setting is None:
            return
        try:
            criu = self._criu = find_criu(self._setting, self._store_dir)
            facts = KernelFacts()
            self._trial = sandbox_id, replace(criu, facts=facts)
            attempt()
            facts.close()
            self._criu = replace(criu, facts=facts)
        except (CloisterError, OSError) as error:
            message, hint = getattr(error, "message", str(error)), getattr(error, "hint", None) or INSTALL_HINT
            tell("checkpoint.unavailable", {"error": message, "hint": hint})
        else:
            self.works = True
            tell("checkpoint.works", {"criu": criu.version})
        finally:
            self._trial = None

    def dump(self, spec: SandboxSpec, started: StartedSlot, used_bytes: int, directory: Path, *, is_durable: bool) -> Manifest:
        """Save a frozen sandbox that uses so much memory. Raises: as :meth:`RuntimeSandbox.checkpoint`."""
        if not started.boot_id:
            raise ConflictError("the sandbox was made by an earlier release, which could not save memory", hint=HINT)
        dumper = Dumper(criu=self._found(spec), groups=self._groups, own_filter=compile_dump_filter(), sandbox_filter=self._sandbox_filter)
        subject = Subject(
            sandbox_id=spec.sandbox_id,
            hostname=spec.hostname,
            boot_id=started.boot_id,
            mem_mib=spec.limits.mem_mib,
            pid=started.pid,
            restored=started.restored,
            trees=started.trees,
            pidfd=started.pidfd,
        )
        try:
            with self._space.claim(directory.parent, used_bytes + ROOM):
                return dumper.dump(subject, directory, is_durable=is_durable)
        except NoCapacityError as error:
            raise UnavailableError(f"there is no room for the sandbox's memory: {error}", hint=HINT) from error

    def check(self, image: Path, spec: SandboxSpec) -> Manifest:
        """The manifest of an image that can be restored for ``spec``. Raises: UnavailableError, which says why not and what to do."""
        self._found(spec)
        manifest = read_manifest(image)
        manifest.check(image)
        if spec.limits.mem_mib < manifest.mem_mib:
            what = f"the sandbox had {manifest.mem_mib} MiB of memory and would have {spec.limits.mem_mib}"
            raise UnavailableError(what, hint="resume it with the limits that it had")
        return manifest

    def fill(self, started: StartedSlot, spec: SandboxSpec, image: Path, manifest: Manifest, group: list[int]) -> None:
        """Restore an image in a slot that waits for it. Raises: as :meth:`Runtime.restore`."""
        restore_into(self._found(spec), image, manifest, started.pid, group, processors(spec.limits, started.slot.index))

    def _found(self, spec: SandboxSpec) -> Criu:
        """An image is restored also before the proof: a server that starts with sandboxes on disk must not refuse them meanwhile."""
        if self._setting is None:
            raise UnavailableError("memory on disk is turned off on this server", hint="set checkpoint=auto, or resume with memory=false")
        if self._trial is not None and self._trial[0] == spec.sandbox_id:
            return self._trial[1]
        if self._criu is None:
            self._criu = find_criu(self._setting, self._store_dir)
        return self._criu


def restored_payload(spec: SandboxSpec, manifest: Manifest) -> Payload:
    """Of a slot that an image will be restored in. A copy, whose id is another one, gets a boot id of its own. Its agent knows the disk."""
    restored = Restored(root=manifest.root, last_pid=manifest.last_pid, clock_s=manifest.clock_s)
    payload = Payload(argv=(), envs={}, has_disk=True, restored=restored)
    return replace(payload, boot_id=manifest.boot_id) if spec.sandbox_id == manifest.sandbox_id else payload
