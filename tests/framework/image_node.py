"""A node that builds from images of a registry in the pretend internet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.model.build import ImageSource
from cloister.model.resources import Limits
from cloister.template.images.library import NodeImageLibrary
from cloister.template.images.reference import ImageMap
from cloister.template.images.registries import RegistrySettings
from cloister.template.images.tools import ImageTools
from cloister.template.interfaces import BaseImage, BuildSandboxSpec, ShellCommand
from cloister.template.progress import PlainProgress
from cloister.template.stockbuilder import StockBuildContext
from framework.build_node import LIMITS, BuildNode, NoCancellation, build_node
from framework.image_tools import ensure_tree
from framework.pretend_internet import PretendInternet

__all__ = ["ImageNode", "host_node", "image_node"]


class _Log:
    """Keeps a build's log as text."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`BuildLog`."""
        self.text += f"{level}: {message}\n"


@dataclass
class ImageNode:
    """``log`` is that of the last build."""

    node: BuildNode
    images: NodeImageLibrary
    log: str = ""

    def base(
        self,
        reference: str,
        limits: Limits = LIMITS,
        username: str | None = None,
        password: str | None = None,
        *,
        team: str = "team",
        is_aws_key: bool = False,
    ) -> BaseImage:
        """The image as layers."""
        log = _Log()
        source = ImageSource(reference=reference, username=username, password=password, is_aws_key=is_aws_key)
        try:
            return self.images.base(source, team, replace(limits, mem_mib=1024), log, NoCancellation(), force=False)
        finally:
            self.log = log.text

    def run(self, base: BaseImage, text: str, user: str | None = None) -> str:
        """Output of a command in a sandbox on the image, run as the SDKs do; it must succeed."""
        said: list[bytes] = []
        with self.node.build_sandboxes.open(base.layers, BuildSandboxSpec(limits=LIMITS, envs=base.envs), NoCancellation()) as box:
            status = box.run(ShellCommand(text=text, user=user or base.user, cwd=base.workdir), lambda _kind, data: said.append(data))
        assert status == 0, b"".join(said)
        return b"".join(said).decode(errors="surrogateescape")


@contextmanager
def image_node(internet: PretendInternet, *image_map: str, allow_private: tuple[str, ...] = ()) -> Iterator[ImageNode]:
    """A node whose only internet is the pretended one; ``image_map`` are entries of the setting."""
    settings: dict[str, Any] = {"dns_upstreams": (internet.dns_address,), "extra_ca_file": internet.ca_file, "allow_private": allow_private}
    with host_node(*image_map, **settings) as node:
        yield node


@contextmanager
def host_node(*image_map: str, registries: RegistrySettings | None = None, **settings: Any) -> Iterator[ImageNode]:
    """A node on this host as it is, with ``settings``."""
    tools = ensure_tree("images")
    with build_node(further_layers=tools, **settings) as node, Path("/dev/null").open("w") as nowhere:
        run_step = node.host.run_step
        context = StockBuildContext(store=node.store, run_step=run_step, progress=PlainProgress(nowhere), host_layer=node.host.host_layer)
        yield ImageNode(node, NodeImageLibrary(node.store, node.build_sandboxes, ImageTools(context), ImageMap(image_map), registries))
