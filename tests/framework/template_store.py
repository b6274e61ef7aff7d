"""A store of a test's own whose layers and agent are the real ones, with templates that only the test knows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from cloister.model.template import Template
from cloister.template.layers import LayerStore

__all__ = ["own_store", "real_store", "store_with", "variant"]


def real_store() -> Path:
    """The store in which the stock templates are built."""
    return Path(os.environ.get("CLOISTER_STORE_DIR", "/var/lib/cloister/store"))


def variant(parent: str, name: str, **changes: Any) -> Template:
    """The stock template ``parent`` with other fields, as a template of its own."""
    stock = Template.from_json(json.loads((real_store() / "templates" / f"{parent}.json").read_text()))
    return dataclasses.replace(stock, template_id=f"{name}-id", name=name, build_id=str(uuid.uuid4()), aliases=(), **changes)


def store_with(directory: Path, *templates: Template) -> Path:
    """A store in ``directory`` with the stock templates and these; layers and agents are links to the real ones."""
    directory.mkdir()
    for name in ("layers", "agent"):
        (directory / name).symlink_to(real_store() / name)
    shutil.copytree(real_store() / "templates", directory / "templates")
    for template in templates:
        (directory / "templates" / f"{template.name}.json").write_text(json.dumps(template.to_json()))
    return directory


def own_store(directory: Path) -> Path:
    """An empty store in ``directory`` that has the stock templates; no other store shares the layers that are made or collected there."""
    store = LayerStore(directory)
    (store.root / "agent").rmdir()
    (store.root / "agent").symlink_to(real_store() / "agent")
    for template in LayerStore(real_store()).templates():
        store.write_template(template)
        for key in template.layers:
            with contextlib.suppress(FileExistsError):
                (store.root / "layers" / key).symlink_to(real_store() / "layers" / key)
    return store.root
