"""Makes layers of the store out of an image of a registry: asks, fetches and unpacks, each in build sandboxes.

The fetched directory is a layer for the time of the import, shown to the sandboxes that unpack it, and removed at the end; the host
looks at nothing in it (I2). What is unpacked is keyed by the chain of digests, so a layer that is there is not unpacked again.
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
from cloister.model.resources import Limits
from cloister.template.building.steplog import OutputLines
from cloister.template.images.records import ImageFacts, ImageRecords, Made, read_facts
from cloister.template.images.registries import Registries
from cloister.template.interfaces import BoxSpec, BuildLog, BuildSandbox, Cancellation, Workbench
from cloister.template.layers import LayerStore, layer_key

__all__ = ["Credentials", "Importer", "PullFailedError", "Work"]

_FORMAT = 1
_MIN_MEM_MIB = 1024


class PullFailedError(Exception):
    """A registry, or the way to it, said no. ``kind`` is one of those of agent/build/pull.py."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Work:
    """One build's own: its limits, log and cancellation."""

    def __init__(self, limits: Limits, log: BuildLog, cancellation: Cancellation) -> None:
        self.limits = replace(limits, mem_mib=max(limits.mem_mib, _MIN_MEM_MIB))
        self.cancellation = cancellation
        self.log = log

    def say(self, message: str, level: str = "info") -> None:
        """A line of the build's log."""
        self.log.add(level, message, BASE_STEP)

    def output(self) -> OutputLines:
        """Takes an operation's output and logs its lines."""
        return OutputLines(self.log, BASE_STEP)


class Credentials:
    """A user name and a password, perhaps none, which are shown nowhere."""

    def __init__(self, source: ImageSource) -> None:
        self.is_aws_key = source.is_aws_key
        self._words = {"username": source.username, "password": source.password or ""} if source.username else {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._words)

    def params(self) -> dict[str, str | bool]:
        """For the fetching program."""
        return {**self._words, "is_aws_key": self.is_aws_key}


class Importer:
    """See the module."""

    def __init__(self, store: LayerStore, workbench: Workbench, records: ImageRecords, registries: Registries) -> None:
        self._store = store
        self._workbench = workbench
        self._records = records
        self._registries = registries

    def inspect(self, reference: str, credentials: Credentials, tools: tuple[str, ...], work: Work) -> ImageFacts:
        """What the registry says of the image. Raises: PullFailedError, BuildError."""
        host = _host(reference)
        with self._asking(host, tools, work) as box:
            answer = self._pull(box, "inspect", reference, credentials, work)
        if answer.get("plain"):
            work.say(f"{host} is spoken to without TLS: what it says is not protected on the way", "warn")
        return read_facts(answer)

    def layers(self, facts: ImageFacts, scope: str) -> tuple[str, ...] | None:
        """The image's layers, when every one of them is there."""
        found = []
        for key in _chain(facts, scope):
            made = self._records.made(key)
            if made is None or (made.layer is not None and not self._store.has(made.layer)):
                return None
            found.append(made.layer)
        return tuple(layer for layer in found if layer is not None)

    def fetch(
        self, reference: str, facts: ImageFacts, credentials: Credentials, scope: str, tools: tuple[str, ...], work: Work
    ) -> tuple[str, ...]:
        """Fetch the image and make those of its layers that are not there. Raises: PullFailedError, BuildError."""
        key = layer_key(None, {"kind": "image-fetch", "format": _FORMAT, "digest": facts.digest, "scope": scope})
        waiting = "waiting for another build that fetches this image"
        with self._store.lock(key, on_wait=lambda: work.say(waiting), check=work.cancellation.check):
            if (found := self.layers(facts, scope)) is not None:
                return found
            work.cancellation.check()
            try:
                with self._asking(_host(reference), tools, work) as box:
                    self._pull(box, "copy", reference, credentials, work)
                    if box.publish(key, "image/fetched") is None:
                        raise BuildError("the fetched image is empty")
                with self._store.hold((key,)):
                    return self._unpack(facts, scope, key, work)
            finally:
                remove_tree(self._store.root / "layers" / key)

    @contextmanager
    def _asking(self, host: str, tools: tuple[str, ...], work: Work) -> Iterator[BuildSandbox]:
        """A sandbox that speaks to the registry ``host``, by a door if it is on this very host. Raises: PullFailedError, BuildError."""
        spec = BoxSpec(limits=work.limits, door=self._registries.door(host))
        try:
            with self._workbench.open(tools, spec, work.cancellation) as box:
                yield box
        except UnavailableError as error:
            raise PullFailedError("unreached", str(error)) from None

    def _pull(self, box: BuildSandbox, action: str, reference: str, credentials: Credentials, work: Work) -> dict[str, Any]:
        host = _host(reference)
        ways = {"insecure": self._registries.is_insecure(host), "door": self._registries.door(host) is not None}
        with work.output() as output:
            answer = box.operate("pull", {"action": action, "reference": reference, **ways, **credentials.params()}, output)
        if "failed" in answer:
            raise PullFailedError(str(answer["failed"]), str(answer.get("message", ""))[:1000])
        return answer

    def provision(self, layers: tuple[str, ...], facts: ImageFacts, work: Work) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The layers with what every template has on top, and what the program said. Raises: BuildError."""
        document = {"kind": "image-provision", "program": _program_digest(), "user": facts.user, "workdir": facts.workdir}
        key = layer_key(layers[-1] if layers else None, {**document, "layers": list(layers)})
        params = {"user": facts.user, "workdir": facts.workdir}
        spec = BoxSpec(limits=work.limits, allow_internet=False, host_layer=False)
        made = self._ensure(key, "image/provision", layers, spec, ("provision", params), work)
        return (*layers, made.layer) if made.layer else layers, made.result

    def _unpack(self, facts: ImageFacts, scope: str, fetched: str, work: Work) -> tuple[str, ...]:
        below: tuple[str, ...] = ()
        keys = _chain(facts, scope)
        for index, (key, diff_id) in enumerate(zip(keys, facts.diff_ids, strict=True)):
            work.say(f"layer {index + 1} of {len(keys)}: {diff_id[:19]}")
            spec = BoxSpec(limits=work.limits, context=self._store.rootfs(fetched), allow_internet=False, host_layer=False)
            params = {"blob": ".image/" + diff_id.removeprefix("sha256:"), "diff_id": diff_id}
            made = self._ensure(key, f"image/{diff_id[7:19]}", below, spec, ("image", params), work)
            below = (*below, made.layer) if made.layer else below
        return below

    def _ensure(
        self, key: str, name: str, below: tuple[str, ...], spec: BoxSpec, operation: tuple[str, dict[str, Any]], work: Work
    ) -> Made:
        """What the operation makes on top of ``below``, once."""
        with self._store.lock(key, check=work.cancellation.check):
            made = self._records.made(key)
            if made is not None and (made.layer is None or self._store.has(made.layer)):
                return made
            work.cancellation.check()
            with self._workbench.open(below, spec, work.cancellation) as box:
                with work.output() as output:
                    result = box.operate(*operation, output)
                layer = self._store.layer(key) if self._store.has(key) else box.publish(key, name)
            made = Made(layer=layer.key if layer else None, result=result)
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
    """Of what decides how a base is provisioned."""
    folder = resources.files("cloister.agent.build")
    sources = (folder.joinpath(name).read_bytes() for name in ("provision.py", "accounts.py", "users.py", "paths.py"))
    return hashlib.sha256(b"\0".join(sources)).hexdigest()
