"""Imports an image of a registry into the layer store: inspects, fetches and unpacks it, each in build sandboxes.

The fetched directory is a temporary layer, mounted into the sandboxes that unpack it. The host reads no file of it (I2). The key of an
unpacked layer is made of its chain of digests, so an existing layer is not unpacked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from cloister.errors import BuildError, UnavailableError
from cloister.linux.trees import remove_tree
from cloister.model.build import BASE_STEP, ImageSource
from cloister.model.network import NO_EGRESS
from cloister.model.resources import Limits
from cloister.template.building.steplog import OutputLines
from cloister.template.images.imagerecords import ImageFacts, ImageRecords, ImageStepResult, read_facts
from cloister.template.images.registries import RegistrySettings
from cloister.template.interfaces import BuildLog, BuildSandbox, BuildSandboxes, BuildSandboxSpec, Cancellation
from cloister.template.layers import LayerStore, layer_key

__all__ = ["ImageImporter", "ImagePullError", "ImportJob", "RegistryCredentials"]

_FORMAT = 1
_MIN_MEM_MIB = 1024


class ImagePullError(Exception):
    """An image could not be pulled. ``kind`` is one of those of agent/build/pull.py."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ImportJob:
    """The build that needs the image: its limits, log and cancellation."""

    def __init__(self, limits: Limits, log: BuildLog, cancellation: Cancellation) -> None:
        self.limits = replace(limits, mem_mib=max(limits.mem_mib, _MIN_MEM_MIB))
        self.cancellation = cancellation
        self.log = log

    def say(self, message: str, level: str = "info") -> None:
        """Add a line to the build's log."""
        self.log.add(level, message, BASE_STEP)

    def output(self) -> OutputLines:
        """A receiver of an operation's output that logs its lines."""
        return OutputLines(self.log, BASE_STEP)


class RegistryCredentials:
    """A user name and a password, perhaps none. No log or error shows them."""

    def __init__(self, source: ImageSource) -> None:
        self.is_aws_key = source.is_aws_key
        self._words = {"username": source.username, "password": source.password or ""} if source.username else {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._words)

    def params(self) -> dict[str, str | bool]:
        """As parameters of the fetching program."""
        return {**self._words, "is_aws_key": self.is_aws_key}


class ImageImporter:
    """Imports images into one store."""

    def __init__(self, store: LayerStore, build_sandboxes: BuildSandboxes, records: ImageRecords, registries: RegistrySettings) -> None:
        self._store = store
        self._build_sandboxes = build_sandboxes
        self._records = records
        self._registries = registries

    def inspect(self, reference: str, credentials: RegistryCredentials, tools: tuple[str, ...], job: ImportJob) -> ImageFacts:
        """The registry's facts about the image. Raises: ImagePullError, BuildError."""
        host = _host(reference)
        with self._asking(host, tools, job) as sandbox:
            answer = self._pull(sandbox, "inspect", reference, credentials, job)
        if answer.get("plain"):
            job.say(f"the connection to {host} has no TLS, so its answers are not protected", "warn")
        return read_facts(answer)

    def layers(self, facts: ImageFacts, scope: str) -> tuple[str, ...] | None:
        """The image's layers. None: some of them are missing."""
        found = []
        for key in _chain(facts, scope):
            made = self._records.made(key)
            if made is None or (made.layer is not None and not self._store.has(made.layer)):
                return None
            found.append(made.layer)
        return tuple(layer for layer in found if layer is not None)

    def fetch(
        self, reference: str, facts: ImageFacts, credentials: RegistryCredentials, scope: str, tools: tuple[str, ...], job: ImportJob
    ) -> tuple[str, ...]:
        """Fetch the image and make its missing layers. Raises: ImagePullError, BuildError."""
        key = layer_key(None, {"kind": "image-fetch", "format": _FORMAT, "digest": facts.digest, "scope": scope})
        waiting = "waiting for another build that fetches this image"
        with self._store.lock(key, on_wait=lambda: job.say(waiting), check=job.cancellation.check):
            if (found := self.layers(facts, scope)) is not None:
                return found
            job.cancellation.check()
            try:
                with self._asking(_host(reference), tools, job) as sandbox:
                    self._pull(sandbox, "copy", reference, credentials, job)
                    if sandbox.publish(key, "image/fetched") is None:
                        raise BuildError("the fetched image is empty")
                with self._store.hold((key,)):
                    return self._unpack(facts, scope, key, job)
            finally:
                remove_tree(self._store.root / "layers" / key)

    @contextmanager
    def _asking(self, host: str, tools: tuple[str, ...], job: ImportJob) -> Iterator[BuildSandbox]:
        """A sandbox that can reach the registry ``host``, also if it is on this very host. Raises: ImagePullError, BuildError."""
        spec = BuildSandboxSpec(limits=job.limits, host_endpoint=self._registries.host_endpoint(host))
        try:
            with self._build_sandboxes.open(tools, spec, job.cancellation) as sandbox:
                yield sandbox
        except UnavailableError as error:
            raise ImagePullError("unreached", str(error)) from None

    def _pull(self, sandbox: BuildSandbox, action: str, reference: str, credentials: RegistryCredentials, job: ImportJob) -> dict[str, Any]:
        host = _host(reference)
        ways = {"insecure": self._registries.is_insecure(host), "forwarded": self._registries.host_endpoint(host) is not None}
        with job.output() as output:
            answer = sandbox.operate("pull", {"action": action, "reference": reference, **ways, **credentials.params()}, output)
        if "failed" in answer:
            raise ImagePullError(str(answer["failed"]), str(answer.get("message", ""))[:1000])
        return answer

    def provision(self, layers: tuple[str, ...], facts: ImageFacts, job: ImportJob) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Add the accounts and programs that every template has. Returns all layers and the operation's result. Raises: BuildError."""
        document = {"kind": "image-provision", "program": _program_digest(), "user": facts.user, "workdir": facts.workdir}
        key = layer_key(layers[-1] if layers else None, {**document, "layers": list(layers)})
        params = {"user": facts.user, "workdir": facts.workdir}
        spec = BuildSandboxSpec(limits=job.limits, egress=NO_EGRESS, host_layer=False)
        made = self._ensure(key, "image/provision", layers, spec, ("provision", params), job)
        return (*layers, made.layer) if made.layer else layers, made.result

    def _unpack(self, facts: ImageFacts, scope: str, fetched: str, job: ImportJob) -> tuple[str, ...]:
        below: tuple[str, ...] = ()
        keys = _chain(facts, scope)
        for index, (key, diff_id) in enumerate(zip(keys, facts.diff_ids, strict=True)):
            job.say(f"layer {index + 1} of {len(keys)}: {diff_id[:19]}")
            spec = BuildSandboxSpec(limits=job.limits, context=self._store.rootfs(fetched), egress=NO_EGRESS, host_layer=False)
            params = {"blob": ".image/" + diff_id.removeprefix("sha256:"), "diff_id": diff_id}
            made = self._ensure(key, f"image/{diff_id[7:19]}", below, spec, ("image", params), job)
            below = (*below, made.layer) if made.layer else below
        return below

    def _ensure(
        self, key: str, name: str, below: tuple[str, ...], spec: BuildSandboxSpec, operation: tuple[str, dict[str, Any]], job: ImportJob
    ) -> ImageStepResult:
        """The result of the operation on top of ``below``; runs it if there is no record."""
        with self._store.lock(key, check=job.cancellation.check):
            made = self._records.made(key)
            if made is not None and (made.layer is None or self._store.has(made.layer)):
                return made
            job.cancellation.check()
            with self._build_sandboxes.open(below, spec, job.cancellation) as sandbox:
                with job.output() as output:
                    result = sandbox.operate(*operation, output)
                layer = self._store.layer(key) if self._store.has(key) else sandbox.publish(key, name)
            made = ImageStepResult(layer=layer.key if layer else None, result=result)
            self._records.note(key, made)
            return made


def _chain(facts: ImageFacts, scope: str) -> list[str]:
    keys: list[str] = []
    for diff_id in facts.diff_ids:
        document = {"kind": "image-layer", "format": _FORMAT, "diff_id": diff_id, "scope": scope}
        keys.append(layer_key(keys[-1] if keys else None, document))
    return keys


def _host(reference: str) -> str:
    return reference.partition("/")[0]


@cache
def _program_digest() -> str:
    """The digest of the programs that provision a base."""
    folder = resources.files("cloister.agent.build")
    sources = (folder.joinpath(name).read_bytes() for name in ("provision.py", "accounts.py", "users.py", "paths.py"))
    return hashlib.sha256(b"\0".join(sources)).hexdigest()
