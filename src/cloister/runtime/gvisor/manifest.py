"""The facts beside a saved sandbox that a restore needs.

    <image>/image/           as runsc saved it
    <image>/guest/           the first program, as the saved sandbox had it
    <image>/manifest.json    the directories that it stood on, its host ids, the version of runsc, what its processes may do

Runs in: supervisor and builds. Needs: nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cloister.errors import UnavailableError
from cloister.runtime.gvisor.bundle import shape
from cloister.runtime.spec import AgentTree, SandboxSpec

__all__ = ["Manifest"]

_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Of one image."""

    version: str
    first_id: int
    layers: list[str]
    interpreter: list[str]
    agent: str
    shape: str = ""
    """That of its processes (:func:`.bundle.shape`); empty in images of earlier releases."""

    @classmethod
    def of(cls, spec: SandboxSpec, version: str, first_id: int) -> Manifest:
        """That of a sandbox with an agent."""
        assert spec.agent is not None, "only sandboxes with an agent are saved"
        return cls(
            version=version,
            first_id=first_id,
            layers=[str(layer) for layer in spec.layers],
            interpreter=[str(layer) for layer in spec.agent.interpreter],
            agent=str(spec.agent.agent),
            shape=shape(spec),
        )

    def write(self, image: Path) -> None:
        """Write it into the directory of the image."""
        (image / _NAME).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, image: Path) -> Manifest:
        """That of an image. Raises: UnavailableError."""
        try:
            return cls(**json.loads((image / _NAME).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"the saved sandbox cannot be restored: {error}") from error

    def applied_to(self, spec: SandboxSpec, version: str, first_id: int) -> SandboxSpec:
        """``spec`` on the directories that the saved sandbox stood on. Raises: UnavailableError."""
        if self.version != version:
            raise UnavailableError(f"it was saved by runsc {self.version}, and this server has {version}")
        if self.first_id != first_id:
            raise UnavailableError("it was saved with host ids that are not free now", hint="kill sandboxes of the other runtime")
        if self.shape != shape(spec):
            raise UnavailableError("it was saved with other limits or capabilities of its processes, as by an earlier release")
        agent = AgentTree(tuple(map(Path, self.interpreter)), Path(self.agent))
        return replace(spec, layers=tuple(map(Path, self.layers)), agent=agent)
