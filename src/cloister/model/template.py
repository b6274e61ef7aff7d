"""Templates: a built one as a node runs it, and a team's as the store keeps it. Plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloister.model.resources import Limits

__all__ = [
    "ON_DEMAND",
    "RUNTIME_VARIABLE",
    "STARTER",
    "AbsentTemplate",
    "OwnedTemplate",
    "TagAssignment",
    "TaggedBuild",
    "Template",
    "TemplateKind",
]

STARTER = "starter"
"""The stock template for the first minutes of a new machine: Python and bash alone, built in about a minute."""
ON_DEMAND = (STARTER, "desktop", "claude", "codex", "opencode")
"""Stock templates that are built only when they are named."""
RUNTIME_VARIABLE = "CLOISTER_RUNTIME"
"""The variable of a template's environment that names the runtime of its sandboxes."""


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
    """The user of the language kernels, inside the sandbox."""
    languages: tuple[str, ...] = ()
    """Canonical names of the interpreter's languages, the default one first; empty: no interpreter."""
    programs: dict[str, str] = field(default_factory=dict)
    """Language to the program that runs its driver, for languages whose program is not the usual one."""
    limits: Limits = field(default_factory=Limits)
    aliases: tuple[str, ...] = ()
    start_cmd: str = ""
    """A command that every sandbox starts once, as the default user, in the work directory; empty: none."""
    ready_cmd: str = ""
    """A command that is repeated until it succeeds: then the sandbox is ready. Empty: it is ready at once."""
    created_at: float = 0.0
    """Time of the build, epoch seconds; 0: unknown."""
    authors: tuple[str, ...] | None = None
    """Ids of the teams whose code is in it, sorted: of its own build and of all templates it is based on. Empty: a stock template.
    None: unknown (a record of an older version); this counts as code of another team."""
    for_copies: bool = False
    """It is the capture of a fork: only copies of one sandbox are made of it, at once."""
    edition: str = ""
    """Of a stock template: names the distribution's updates that a layer of it has; empty: there is no such layer."""
    given_envs: dict[str, str] = field(default_factory=dict, repr=False)
    """For a capture: the variables that the client of the captured sandbox gave. They may be secrets, so only ``given_by`` has them."""
    given_by: str = ""
    """The team of that client."""

    has_memory: bool = False
    """It is a capture with the memory and the processes of a sandbox, which are on one node (node/memory_captures.py). Its sandboxes
    belong to the team ``given_by``, and have its limits.
    """

    @property
    def runtime(self) -> str | None:
        """The runtime that its author chose for its sandboxes, by a variable of its environment, which every builder can set."""
        return self.envs.get(RUNTIME_VARIABLE) or None

    @property
    def starts_something(self) -> bool:
        """Whether a sandbox runs a command of the template before it is ready."""
        return bool(self.start_cmd or self.ready_cmd)

    @property
    def only_author(self) -> str | None:
        """The one team whose code is in it; "": a stock template; None: code of several teams, or unknown."""
        if self.authors is None or len(self.authors) > 1:
            return None
        return self.authors[0] if self.authors else ""

    def authors_with(self, team_id: str) -> tuple[str, ...] | None:
        """The authors of a template that ``team_id`` bases on this one; None: unknown."""
        return tuple(sorted({*self.authors, team_id})) if self.authors is not None and team_id else None

    def envs_for(self, team_id: str, envs: dict[str, str]) -> dict[str, str]:
        """The variables of a sandbox for which a client of ``team_id`` gave ``envs``: if it gave none, those that a capture remembers."""
        return self.given_envs if not envs and team_id and team_id == self.given_by else envs

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return {**vars(self), "limits": dict(vars(self.limits))}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Template:
        """The inverse of :meth:`to_json`. Ignores fields of newer versions: servers of several versions may share a store."""
        known = {one.name for one in dataclasses.fields(cls)}
        fields = {name: value for name, value in data.items() if name in known}
        fields["limits"] = Limits(**fields["limits"])
        for name in ("layers", "languages", "aliases"):
            fields[name] = tuple(fields[name])
        if fields.get("authors") is not None:
            fields["authors"] = tuple(fields["authors"])
        return cls(**fields)


@dataclass(frozen=True)
class AbsentTemplate:
    """A stock template that the node does not have. ``note`` says how far its build is; empty: it is not being built."""

    note: str


class TemplateKind(StrEnum):
    """How a template was made."""

    TEMPLATE = "template"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, kw_only=True)
class OwnedTemplate:
    """A team's template, as the store keeps it. Times here and below are seconds since the epoch, UTC."""

    template_id: str
    team_id: str
    name: str | None
    kind: TemplateKind = TemplateKind.TEMPLATE
    public: bool = False
    created_at: float
    updated_at: float
    spawn_count: int = 0
    last_spawned_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class TagAssignment:
    """The assignment of a tag to a build. ``number`` orders assignments."""

    number: int
    assignment_id: str
    tag: str
    assigned_at: float
    build_id: str
    build_created_at: float
    build_finished_at: float | None


@dataclass(frozen=True)
class TaggedBuild:
    """A template's tag and the build that it refers to."""

    template: OwnedTemplate
    assignment: TagAssignment
