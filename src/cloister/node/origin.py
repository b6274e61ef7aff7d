"""The origin of a sandbox: what a start on its kept disk needs beside its record. A file in the sandbox's own directory.

::

    <data>/node/sandboxes/<id>/origin.json   {"version", "template": Template, "envs": {name: value}}

The template is a copy, so a sandbox can be started again when its template was deleted or built anew meanwhile. The variables are secrets
of the client: the file has mode 0600 in a directory of mode 0700, and goes with the sandbox. It is written once, before the sandbox has an
owner. Sandboxes that an older release created have none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cloister.errors import RuntimeFailedError
from cloister.linux.files import sync_path, write_whole
from cloister.model.template import Template

__all__ = ["Origin", "find_origin", "has_origin", "read_origin", "sync_origin", "write_origin"]

_NAME = "origin.json"
_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """The template that a sandbox was made of, and the variables that its client gave."""

    template: Template
    envs: dict[str, str] = field(default_factory=dict, repr=False)


def write_origin(directory: Path, origin: Origin) -> None:
    """Write the file. Raises: OSError."""
    data = {"version": _VERSION, "template": origin.template.to_json(), "envs": origin.envs}
    write_whole(directory / _NAME, json.dumps(data))


def has_origin(directory: Path) -> bool:
    """Whether the file is there."""
    return (directory / _NAME).is_file()


def sync_origin(directory: Path) -> None:
    """Make the file survive a loss of power. Raises: OSError."""
    sync_path(directory / _NAME)
    sync_path(directory)


def find_origin(directory: Path) -> Origin | None:
    """The origin; None: an older release created the sandbox. Raises: RuntimeFailedError: this release cannot read it."""
    return read_origin(directory) if has_origin(directory) else None


def read_origin(directory: Path) -> Origin:
    """Raises: RuntimeFailedError: there is no such file, or this release cannot read it."""
    try:
        data = json.loads((directory / _NAME).read_text())
        if data["version"] != _VERSION:
            raise RuntimeFailedError(f"{directory / _NAME} has format {data['version']}, this release knows {_VERSION}")
        return Origin(Template.from_json(data["template"]), dict(data["envs"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeFailedError(f"the node does not know what sandbox {directory.name} was made of: {error}") from error
