"""Whole builds on a real node: requests of steps, archives as clients upload them, and a look at what came out."""

from __future__ import annotations

import io
import secrets
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from cloister.errors import TemplateNotFoundError
from cloister.model.build import BuildRequest, BuildStep, ImageSource, UploadedArchive
from cloister.model.network import NO_EGRESS
from cloister.model.template import Template
from cloister.protocol.archive import archive_digest
from cloister.template.building.clientbuild import ClientBuildParts, build_client_template
from cloister.template.interfaces import BaseImage, BuildSandboxSpec, Cancellation, ShellCommand
from framework.build_node import LIMITS, BuildNode, NoCancellation
from framework.fake_build_sandboxes import FakeImages, RecordedLog

__all__ = ["BuildLab", "make_archive"]

_IMAGE = ImageSource(reference="an-image")


def make_archive(tree: dict[str, str | None], mode: int = 0o644) -> bytes:
    """A tar.gz. Path to content of a file, ``-> target`` of a symlink, ``== name`` of a hard link, None of a directory."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.mode = mode if content is not None else 0o755
            info.uid = info.gid = 501
            if content is None:
                info.type = tarfile.DIRTYPE
            elif content.startswith(("-> ", "== ")):
                info.type, info.linkname = tarfile.SYMTYPE if content.startswith("-> ") else tarfile.LNKTYPE, content[3:]
            else:
                info.size = len(content.encode())
            tar.addfile(info, io.BytesIO(content.encode()) if content is not None and info.isreg() else None)
    return made.getvalue()


@dataclass
class BuildLab:
    """Builds on ``node`` for one team; ``log`` is the last build's."""

    node: BuildNode
    uploads: Path
    log: RecordedLog = field(default_factory=RecordedLog)
    templates: dict[str, Template] = field(default_factory=dict)

    def build(self, *steps: BuildStep, parent: str | None = None, cancellation: Cancellation | None = None, **fields: object) -> Template:
        """The template that the steps make of the base template (as an image), or of an earlier build of this lab."""
        self.log.entries.clear()
        request = BuildRequest(
            build_id=secrets.token_hex(8),
            template_id="t1",
            team_id="team",
            name="mine",
            image=None if parent else _IMAGE,
            parent=parent,
            steps=steps,
            **fields,  # type: ignore[arg-type]  # fields by name
        )
        base = self.node.base
        parts = ClientBuildParts(
            store=self.node.store,
            build_sandboxes=self.node.build_sandboxes,
            images=FakeImages(BaseImage(layers=base.layers, envs=base.envs, user=base.user, workdir=base.workdir)),
            find_parent=self._parent,
            uploads=self.uploads,
            limits=LIMITS,
        )
        made = build_client_template(request, parts, self.log, cancellation or NoCancellation())
        self.templates[made.build_id] = made
        return made

    def _parent(self, name: str) -> Template:
        if name not in self.templates:
            raise TemplateNotFoundError(f"there is no template '{name}'")
        return self.templates[name]

    def copy(self, tree: dict[str, str | None], *args: str, mode: int = 0o644) -> BuildStep:
        """A COPY of ``tree``, uploaded."""
        directory = self.uploads / secrets.token_hex(8)
        directory.mkdir(mode=0o755)
        archive = directory / "archive"
        archive.write_bytes(make_archive(tree, mode))
        archive.chmod(0o644)
        with archive.open("rb") as stream:
            digest = archive_digest(stream)
        files = UploadedArchive(path=directory.name, digest=digest)
        return BuildStep(kind="COPY", args=(*args, "", "")[:4], files=files)

    def look(self, template: Template, text: str, *, user: str = "root", host_layer: bool = True) -> str:
        """The standard output of ``text`` in a sandbox over the template's layers."""
        seen: list[tuple[str, bytes]] = []
        spec = BuildSandboxSpec(limits=LIMITS, envs=template.envs, egress=NO_EGRESS, host_layer=host_layer)
        with self.node.build_sandboxes.open(template.layers, spec, NoCancellation()) as box:
            status = box.run(ShellCommand(text=text, user=user), lambda kind, data: seen.append((kind, data)))
        assert status == 0, seen
        return b"".join(data for kind, data in seen if kind == "stdout").decode()
