"""Templates that this node can run: names to layers, and what a sandbox of one is made of."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloister.errors import NoCapacityError, TemplateNotFoundError
from cloister.ids import is_build_id
from cloister.linux.meminfo import memory_mib
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest
from cloister.model.template import Template
from cloister.runtime.spec import AgentTree, SandboxSpec
from cloister.template.agenttree import agent_tree, interpreter_layers
from cloister.template.hostlayer import HostLayer
from cloister.template.layers import LayerStore

__all__ = ["Catalog", "check_capacity"]

_BASE = "base"
_PYTHON = "/usr/bin/python3"
_MIB = 1 << 20
_MEMORY_RESERVE_MIB = 512


class Catalog:
    """What the store offers, read anew for each sandbox: a template may be built while the server runs."""

    def __init__(self, store: LayerStore, host_layer: HostLayer, default_limits: Limits, start_timeout_s: float = 50.0) -> None:
        """``start_timeout_s`` is for what a template starts in its sandboxes."""
        self.start_timeout_s = start_timeout_s
        self._store = store
        self._default_limits = default_limits
        self._host_layer = host_layer
        self._agent_trees: dict[str, AgentTree] = {}
        self._lent: dict[str, Template] = {}
        self.why_unusable()  # holds the agent's tree from the start

    def templates(self) -> list[Template]:
        """Every stock template that is whole."""
        return self._store.templates()

    def why_unusable(self) -> str:
        """Why no sandbox can be created now, with the remedy; creations say the same until it is done. Empty when they can."""
        try:
            self.agent_tree()
        except TemplateNotFoundError as error:
            return f"{error.message} (run: cloister template build all)"
        return ""

    def find(self, name: str) -> Template:
        """By build id; or a stock template by name, id or alias, with or without the tag ``default``. Raises: TemplateNotFoundError."""
        if is_build_id(name):
            return self._find_build(name)
        bare, colon, tag = name.partition(":")
        for template in self.templates():
            if bare in (template.name, template.template_id, *template.aliases):
                if colon and tag != "default":
                    raise TemplateNotFoundError(f"tag '{tag}' does not exist for template '{bare}'")
                return template
        raise TemplateNotFoundError(f"template '{name}' not found")

    def _find_build(self, build_id: str) -> Template:
        """A client's build, or a stock template's."""
        if (lent := self._lent.get(build_id)) is not None:
            return lent
        for template in self.templates():
            if template.build_id == build_id:
                return template
        return self._store.build(build_id)

    @contextlib.contextmanager
    def lending(self, template: Template) -> Iterator[None]:
        """Within the block sandboxes can be made of a build, by its id, that is not kept yet. From any thread."""
        self._lent[template.build_id] = template
        try:
            yield
        finally:
            del self._lent[template.build_id]

    def limits(self, template: Template) -> Limits:
        """The template's own limits; where it has none of its own, this node's defaults."""
        own, neutral = vars(template.limits), vars(Limits())
        changed = {name: value for name, value in own.items() if value != neutral[name]}
        return dataclasses.replace(self._default_limits, **changed)

    def init_document(self, request: SandboxRequest, template: Template, record: SandboxRecord) -> dict[str, Any]:
        """What the agent is told (docs/architecture.md). Variables: host's, then the template's, then the request's."""
        return {
            "sandbox_id": request.sandbox_id,
            "template_id": template.template_id,
            "template": template.name,
            "envs": self._host_layer.envs | template.envs | request.envs,
            "access_token": request.access_token,
            "user": template.user,
            "workdir": template.workdir,
            "kernel_user": template.kernel_user,
            "languages": list(template.languages),
            "programs": template.programs,
            "start": self._start_plan(template),
            "limits": vars(record.limits),
            "agent_env": {},
        }

    def spec(self, request: SandboxRequest, template: Template, record: SandboxRecord, directory: Path) -> SandboxSpec:
        """What the runtime needs to create the sandbox."""
        return SandboxSpec(
            sandbox_id=request.sandbox_id,
            template_key=self.zone_key(template),
            directory=directory,
            layers=(*(self._store.rootfs(key) for key in template.layers), self._host_layer.over(self._store.lowest(template.layers))),
            agent=self.agent_tree(),
            limits=record.limits,
            allow_internet=record.allow_internet,
            hostname=request.sandbox_id,
            init_document=json.dumps(self.init_document(request, template, record)).encode(),
            languages=template.languages,
            python=template.programs.get("python", _PYTHON),
            start_timeout_s=self.start_timeout_s if template.starts_something else None,
        )

    def zone_key(self, template: Template) -> str:
        """What a template's zygotes depend on: builds of the same layers share a zone, so that one from the cache finds it ready."""
        python = template.programs.get("python", _PYTHON) if "python" in template.languages else ""
        document = [str(self.agent_tree().agent), python, *template.layers]
        return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]

    def _start_plan(self, template: Template) -> dict[str, Any] | None:
        """Without the request's variables: a sandbox made ahead has none when it starts, and they are all to start alike."""
        if not template.starts_something:
            return None
        envs = self._host_layer.envs | template.envs
        return {"command": template.start_cmd, "ready": template.ready_cmd, "envs": envs, "timeout_s": self.start_timeout_s}

    def agent_tree(self) -> AgentTree:
        """The agent and its interpreter, looked up once for each build of the base template. Raises: TemplateNotFoundError."""
        base = self._store.template(_BASE)
        if base.build_id not in self._agent_trees:
            layers = tuple(self._store.rootfs(key) for key in interpreter_layers(base))
            tree = AgentTree(interpreter=layers, agent=agent_tree(self._store.root, base))
            self._store.keep((*layers, tree.agent))
            self._agent_trees[base.build_id] = tree
        return self._agent_trees[base.build_id]


def check_capacity(directory: Path, disk_reserve_mib: int) -> None:
    """Refuse a creation that would leave the host itself short of disk or memory. Raises: NoCapacityError."""
    free_mib = shutil.disk_usage(directory).free // _MIB
    if free_mib < disk_reserve_mib:
        raise NoCapacityError(f"the host has {free_mib} MiB of disk left, fewer than the reserve of {disk_reserve_mib}")
    free_mib = memory_mib("MemAvailable")
    if free_mib < _MEMORY_RESERVE_MIB:
        raise NoCapacityError(f"the host has {free_mib} MiB of memory left, fewer than the reserve of {_MEMORY_RESERVE_MIB}")
