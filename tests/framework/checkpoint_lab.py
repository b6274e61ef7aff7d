"""A node in this process whose sandboxes are saved with their memory and restored: for tests of checkpoints without a server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloister.config.load import load
from cloister.ids import new_sandbox_id
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.network.dns_relay import host_nameservers
from cloister.node.catalog import Catalog
from cloister.node.host import NodeHost, build_host
from cloister.protocol.agent import INTERPRETER_PORT
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.namespace.sandbox import NamespaceSandbox
from cloister.runtime.spec import SandboxSpec
from cloister.template.layers import LayerStore

__all__ = ["CheckpointLab", "Held", "checkpoint_lab"]

_TEMPLATE = "code-interpreter-v1"
_REPLY_S = 60.0


@dataclass
class Held:
    """A sandbox and what it was made of."""

    spec: SandboxSpec
    sandbox: NamespaceSandbox

    def run(self, code: str, language: str = "python", context: str | None = None) -> str:
        """Run code by the sandbox's agent; gives what it prints and its result. It must succeed."""
        body = {"code": code} | ({"context_id": context} if context else {"language": language})
        text = ""
        with contextlib.closing(self._ask("POST", "/execute", body)) as connection:
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            for line in answer:
                event = json.loads(line)
                assert event["type"] != "error", event
                text += event.get("text") or "" if event["type"] in ("stdout", "result") else ""
        return text.strip()

    def _ask(self, method: str, path: str, body: object) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("sandbox", timeout=_REPLY_S)
        dialled = self.sandbox.dial()
        connection.sock = dialled.socket
        connection.sock.settimeout(_REPLY_S)
        connection.sock.connect((dialled.hosts[0], INTERPRETER_PORT))
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        return connection


@dataclass
class CheckpointLab:
    """The node."""

    host: NodeHost
    catalog: Catalog
    directory: Path
    held: list[Held] = field(default_factory=list)

    @property
    def runtime(self) -> NamespaceRuntime:
        """The runtime under test."""
        assert isinstance(self.host.runtime, NamespaceRuntime)
        return self.host.runtime

    def spec(self, template: str = _TEMPLATE, **limits: Any) -> SandboxSpec:
        """Of a new sandbox, with a directory of its own."""
        request = SandboxRequest(sandbox_id=new_sandbox_id(), template=template, end_at=time.time() + 3600, team_id="t")
        found = self.catalog.resolve(template, "t")
        record = SandboxRecord(
            sandbox_id=request.sandbox_id, template=template, runtime="namespace", state=SandboxState.CREATING, started_at=time.time(),
            end_at=request.end_at, limits=replace(found.limits, **limits), team_id="t",
        )  # fmt: skip
        directory = self.directory / "sandboxes" / request.sandbox_id
        directory.mkdir(parents=True)
        return self.catalog.spec(request, found, record, directory)

    def create(self, template: str = _TEMPLATE, **limits: Any) -> Held:
        """A sandbox that runs."""
        spec = self.spec(template, **limits)
        return self._hold(spec, self.runtime.create(spec, lambda _state: None))

    def save(self, held: Held, name: str = "image") -> Path:
        """Freeze a sandbox, save it, end it, and keep its disk; gives its image."""
        image = held.spec.directory / name
        held.sandbox.freeze()
        held.sandbox.checkpoint(image)
        self.end(held, keep=True)
        return image

    def restore(self, held: Held, image: Path) -> Held:
        """The same sandbox again, from the image."""
        spec = replace(held.spec, has_disk=True)
        return self._hold(spec, self.runtime.restore(spec, image, lambda _state: None))

    def copy(self, held: Held, image: Path) -> Held:
        """Another sandbox from the image, on a copy of the disk, which is closed."""
        made = self.spec()
        for name in ("disk.img", "disk.closed"):
            shutil.copy(held.spec.directory / name, made.directory / name)
        spec = replace(made, limits=held.spec.limits, has_disk=True)
        return self._hold(spec, self.runtime.restore(spec, image, lambda _state: None))

    def end(self, held: Held, *, keep: bool = False) -> None:
        """End a sandbox."""
        self.held.remove(held)
        held.sandbox.kill()
        if keep:
            held.sandbox.keep_disk()
        held.sandbox.release()

    def _hold(self, spec: SandboxSpec, sandbox: NamespaceSandbox) -> Held:
        made = Held(spec, sandbox)
        self.held.append(made)
        return made


@contextlib.contextmanager
def checkpoint_lab(directory: Path, **settings_of_test: Any) -> Iterator[CheckpointLab]:
    """The node, whose checkpoints work; nothing is left of it."""
    settings = replace(load(None, os.environ), data_dir=directory / "data", checkpoint="auto", **settings_of_test)
    with build_host(settings, settings.dns_upstreams or host_nameservers()) as host:
        lab = CheckpointLab(host, Catalog(LayerStore(settings.store_dir), host.host_layer, Limits()), directory)
        try:
            lab.runtime.probe(replace(lab.spec("base"), start_timeout_s=None))
            yield lab
        finally:
            for held in [*lab.held]:
                lab.end(held)
