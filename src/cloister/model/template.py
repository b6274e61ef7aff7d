"""A template as a node needs it: a stack of layers and what they are to be run with. Plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass, field
from typing import Any

from cloister.model.resources import Limits

__all__ = ["Template"]


@dataclass(frozen=True, kw_only=True)
class Template:
    """A built template. ``layers`` holds layer ids, lowest first."""

    template_id: str
    name: str
    build_id: str
    layers: tuple[str, ...]
    envs: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    workdir: str = "/home/user"
    kernel_user: str = "root"
    """Identity of the language kernels, as seen inside the sandbox."""
    languages: tuple[str, ...] = ()
    """Languages of the interpreter, canonical names, the default one first; empty: no interpreter."""
    programs: dict[str, str] = field(default_factory=dict)
    """Language to the program that runs its driver, where that is not the usual one."""
    limits: Limits = field(default_factory=Limits)
    aliases: tuple[str, ...] = ()
    start_cmd: str = ""
    """Started once in every sandbox, by the default user in the work directory; empty: none."""
    ready_cmd: str = ""
    """Asked again until it succeeds: then the sandbox is ready; empty: at once."""
    created_at: float = 0.0
    """When it was built, epoch seconds; 0 if that is not known."""

    @property
    def starts_something(self) -> bool:
        """Whether a sandbox is more than its agent when it is ready."""
        return bool(self.start_cmd or self.ready_cmd)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Template:
        """The inverse of :meth:`to_json`. What a newer version wrote is left aside: servers of several versions may share a store."""
        known = {one.name for one in dataclasses.fields(cls)}
        fields = {name: value for name, value in data.items() if name in known}
        fields["limits"] = Limits(**fields["limits"])
        for name in ("layers", "languages", "aliases"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
