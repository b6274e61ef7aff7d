"""The templates that this node can run: it finds them by name, and says what their sandboxes are made of.

Every method that finds a template reads the store, so it blocks: call it in a worker thread, never on the event loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import TemplateNotFoundError
from cloister.ids import is_build_id
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest
from cloister.model.secret import reveal
from cloister.model.template import AbsentTemplate, Template
from cloister.node.authorities import AuthorityFor, no_authority
from cloister.protocol.init_document import AgentLimits, InitDocument, StartPlan
from cloister.protocol.languages import native_language
from cloister.runtime.spec import AgentTree, SandboxSpec, Sharing
from cloister.template.absence import told_absence
from cloister.template.agenttree import agent_template, agent_tree, interpreter_layers
from cloister.template.hostlayer import HostLayer
from cloister.template.layers import LayerStore

__all__ = ["Catalog", "ResolvedTemplate", "zone_key", "zone_team"]

_PYTHON = native_language("python").program
_OTHERS = "templates with code of other teams"
_KEPT = 256
_SIZE = ("cpu_count", "mem_mib", "disk_mib")
"""The limits that a client chooses for its template."""


@dataclass(frozen=True, kw_only=True)
class ResolvedTemplate:
    """A template as the store has it now, with what follows from it for one team's sandboxes."""

    template: Template
    agent: AgentTree
    zone_key: str
    """Sandboxes of one key share a zone."""
    zone_team: str
    """The team whose zone that is; sandboxes made ahead in it are for this team alone. Empty: any team's."""
    limits: Limits

    @property
    def build_id(self) -> str:
        """The build of the template."""
        return self.template.build_id


class Catalog:
    """Reads the store anew for each sandbox, because a template may be built while the server runs."""

    def __init__(
        self,
        store: LayerStore,
        host_layer: HostLayer,
        default_limits: Limits,
        start_timeout_s: float = 50.0,
        authority_for: AuthorityFor = no_authority,
    ) -> None:
        """``start_timeout_s`` bounds a template's start command."""
        self.start_timeout_s = start_timeout_s
        self.authority_for = authority_for
        self._store = store
        self._default_limits = default_limits
        self._host_layer = host_layer
        self._agent_trees: dict[str, AgentTree] = {}
        self._unrecorded: dict[str, Template] = {}
        self._resolved: dict[tuple[str, str], ResolvedTemplate] = {}
        """The latest, by build and team. The store gives the same template as long as its record is the same."""
        self.why_unusable()  # keeps the agent tree from being removed, from now on

    def templates(self) -> list[Template]:
        """The stock templates of which no layer is missing."""
        return self._store.templates()

    def offered(self) -> list[Template]:
        """The same for the control plane: each with the limits that its sandboxes get on this node."""
        return [dataclasses.replace(template, limits=self.limits(template)) for template in self.templates()]

    def why_unusable(self) -> str:
        """Why no sandbox can be created now, and the remedy. Empty: sandboxes can be created."""
        try:
            self.agent_tree()
        except TemplateNotFoundError as error:
            return f"{error.message} (run: cloister template build all)"
        return ""

    def absent(self, name: str) -> AbsentTemplate:
        """A stock template that :meth:`templates` does not have."""
        return AbsentTemplate(told_absence(self._store, name))

    def find(self, name: str) -> Template:
        """A build by its id, or a stock template by its name, id or alias, with or without the tag ``default``.

        Raises: TemplateNotFoundError, StoreError.
        """
        if is_build_id(name):
            return self._find_build(name)
        bare, colon, tag = name.partition(":")
        for template in self._store.records():
            if bare in (template.name, template.template_id, *template.aliases):
                if colon and tag != "default":
                    raise TemplateNotFoundError(f"tag '{tag}' does not exist for template '{bare}'")
                return self._store.template(template.name)
        raise TemplateNotFoundError(f"template '{name}' not found")

    def _find_build(self, build_id: str) -> Template:
        """A client's build, or a stock template's."""
        if (template := self._unrecorded.get(build_id)) is not None:
            return template
        for template in self._store.records():
            if template.build_id == build_id:
                return self._store.template(template.name)
        return self._store.build(build_id)

    @contextlib.contextmanager
    def with_unrecorded(self, template: Template) -> Iterator[None]:
        """While the context is open, sandboxes can be made of a build that the store has not recorded yet, by its id. From any thread."""
        self._unrecorded[template.build_id] = template
        try:
            yield
        finally:
            del self._unrecorded[template.build_id]

    def resolve(self, name: str, team_id: str | None) -> ResolvedTemplate:
        """Find a template for the sandboxes of a team. None: the team whose code the template has.

        Raises: TemplateNotFoundError, StoreError.
        """
        template = self.find(name)
        return self.resolved(template, (template.only_author or "") if team_id is None else team_id)

    def resolved(self, template: Template, team_id: str) -> ResolvedTemplate:
        """The template, which the store need not know any more, for the sandboxes of a team. Raises: TemplateNotFoundError: no agent."""
        agent = self.agent_tree()
        known = self._resolved.get((template.build_id, team_id))
        if known is not None and known.template is template and known.agent is agent:
            return known
        found = ResolvedTemplate(
            template=template,
            agent=agent,
            zone_key=zone_key(template, agent, team_id),
            zone_team=zone_team(template, team_id),
            limits=self.limits(template),
        )
        if len(self._resolved) >= _KEPT:
            self._resolved.clear()
        self._resolved[template.build_id, team_id] = found
        return found

    def limits(self, template: Template) -> Limits:
        """The limits of the template's sandboxes on this node.

        A template's record has the values of :class:`Limits` where the template sets none; this node's defaults replace those. The
        size of a client's build is its own in any case: the client chose it and is told it.
        """
        if template.has_memory:
            return template.limits  # the processes have them already
        own, neutral = vars(template.limits), vars(Limits())
        is_clients = template.authors != ()
        kept = {name: value for name, value in own.items() if value != neutral[name] or (is_clients and name in _SIZE)}
        return dataclasses.replace(self._default_limits, **kept)

    def init_document(self, request: SandboxRequest, found: ResolvedTemplate, record: SandboxRecord) -> InitDocument:
        """What the agent reads when it starts. The request's variables override the template's, and those the host's."""
        template, limits = found.template, record.limits
        return InitDocument(
            sandbox_id=request.sandbox_id,
            template_id=template.template_id,
            template=template.name,
            envs=self._host_layer.envs | template.envs | request.envs,
            access_token=reveal(request.access_token),
            user=template.user,
            workdir=template.workdir,
            kernel_user=template.kernel_user,
            languages=template.languages,
            programs=template.programs,
            start=self._start_plan(template),
            limits=AgentLimits(cpu_count=limits.cpu_count, mem_mib=limits.mem_mib, output_mib=limits.output_mib),
            ca_bundle=self.authority_for(record.sandbox_id, record.egress),
        )

    def spec(self, request: SandboxRequest, found: ResolvedTemplate, record: SandboxRecord, directory: Path) -> SandboxSpec:
        """What the runtime needs to create the sandbox."""
        template = found.template
        return SandboxSpec(
            sandbox_id=request.sandbox_id,
            sharing=Sharing(
                key=found.zone_key,
                runs_template_code=_has_zone(template, record.team_id),
            ),
            directory=directory,
            layers=(*(self._store.rootfs(key) for key in template.layers), self._host_layer.over(self._store.lowest(template.layers))),
            agent=found.agent,
            limits=record.limits,
            egress=record.egress,
            team_id=record.team_id,
            hostname=request.sandbox_id,
            init_document=self.init_document(request, found, record).to_json(),
            languages=template.languages,
            python=template.programs.get("python", _PYTHON),
            start_timeout_s=self.start_timeout_s if template.starts_something else None,
            volumes=record.volumes,
        )

    def _start_plan(self, template: Template) -> StartPlan | None:
        """The start command, without the request's variables: a sandbox made ahead has none yet, and all sandboxes start alike."""
        if not template.starts_something:
            return None
        envs = self._host_layer.envs | template.envs
        return StartPlan(command=template.start_cmd, ready=template.ready_cmd, envs=envs, timeout_s=self.start_timeout_s)

    def agent_tree(self) -> AgentTree:
        """The agent and its interpreter, found once for each build of the template that has them. Raises: TemplateNotFoundError."""
        base = agent_template(self._store)
        if base.build_id not in self._agent_trees:
            layers = tuple(self._store.rootfs(key) for key in interpreter_layers(base))
            tree = AgentTree(interpreter=layers, agent=agent_tree(self._store.root, base))
            self._store.keep((*layers, tree.agent))
            self._agent_trees[base.build_id] = tree
        return self._agent_trees[base.build_id]


def zone_key(template: Template, agent: AgentTree, team_id: str) -> str:
    """The key of the zone of a team's sandboxes; sandboxes with one key share a zone (docs/decisions/0701-zones-and-teams.md).

    Builds of the same layers and team share one, so that a build from the cache finds its zygotes ready. All sandboxes with code of
    another team, and all copies of forks, share one zone, in which no template's code runs outside of sandboxes.
    """
    if _has_zone(template, team_id):
        python = template.programs.get("python", _PYTHON) if "python" in template.languages else ""
        document = [str(agent.agent), template.only_author, python, *template.layers]
    else:
        document = [str(agent.agent), _OTHERS]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def zone_team(template: Template, team_id: str) -> str:
    """The team whose zone a sandbox of ``team_id`` is in, where a zone is one team's; else an empty text."""
    return team_id if template.only_author == team_id and _has_zone(template, team_id) else ""


def _has_zone(template: Template, team_id: str) -> bool:
    """Whether the team's sandboxes of the template have a zone for themselves, where the template's code has power over them.

    All code in it must be the server's or the team's. A fork's capture has none: its copies are made before a zygote would be ready, and
    each fork would take one of the node's few zones. Sandboxes with saved memory need no zygote.
    """
    return template.only_author in ("", team_id) and not template.for_copies and not template.has_memory
