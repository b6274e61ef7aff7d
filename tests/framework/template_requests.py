"""Requests about templates, builds and uploads to a control plane under test."""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloister.control.keys import Keys
from cloister.store.sqlite import SqliteStore
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer, call
from framework.requests import ask

__all__ = [
    "HASH",
    "archive",
    "build",
    "build_now",
    "building_plane",
    "link",
    "new_name",
    "other_team",
    "put",
    "request_build",
    "start",
    "status",
    "wait_for",
]

HASH = "0" * 64


@contextmanager
def building_plane(directory: Path) -> Iterator[ControlPlane]:
    """A control plane whose builds run, with little room for uploads."""
    with running_control_plane(directory, disk_reserve_mib=1, max_upload_mib=1, upload_total_mib=2) as plane:
        plane.node.builds_run = True
        yield plane


def new_name() -> str:
    """A name that no test has."""
    return f"t-{uuid.uuid4().hex[:12]}"


def request_build(plane: ControlPlane, name: str, **fields: Any) -> tuple[str, str]:
    """Request a build; returns template and build id."""
    answer = ask(plane, "POST", "/v3/templates", {"name": name, **fields})
    assert answer.status == 202, answer.body
    return answer.json()["templateID"], answer.json()["buildID"]


def start(plane: ControlPlane, template_id: str, build_id: str, **plan: Any) -> Answer:
    """Start a build, from ``debian`` unless it is said otherwise."""
    return ask(plane, "POST", f"/v2/templates/{template_id}/builds/{build_id}", plan or {"fromImage": "debian"})


def status(plane: ControlPlane, template_id: str, build_id: str, query: str = "") -> dict[str, Any]:
    """How a build is."""
    answer = ask(plane, "GET", f"/templates/{template_id}/builds/{build_id}/status{query}")
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json()
    return told


def wait_for(plane: ControlPlane, template_id: str, build_id: str, *wanted: str) -> dict[str, Any]:
    """Wait until a build has one of these states."""
    deadline = time.monotonic() + 20
    while (told := status(plane, template_id, build_id))["status"] not in wanted:
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


def build(plane: ControlPlane, name: str, **plan: Any) -> tuple[str, str]:
    """A build that is ready."""
    ids = request_build(plane, name)
    assert start(plane, *ids, **plan).status == 202
    wait_for(plane, *ids, "ready")
    return ids


def archive(name: str = "f", content: bytes = b"data") -> bytes:
    """A tar archive with a directory and a file."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as tar:
        directory = tarfile.TarInfo("d")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return into.getvalue()


def link(plane: ControlPlane, template_id: str, upload_hash: str = HASH) -> dict[str, Any]:
    """Where to upload to."""
    answer = ask(plane, "GET", f"/templates/{template_id}/files/{upload_hash}")
    assert answer.status == 201, answer.body
    told: dict[str, Any] = answer.json()
    return told


def put(url: str, data: bytes, **headers: str) -> Answer:
    """An upload, without a key."""
    parts = urlsplit(url)
    return call(f"{parts.scheme}://{parts.netloc}", "PUT", f"{parts.path}?{parts.query}", body=data, headers=headers)


def other_team(plane: ControlPlane) -> dict[str, str]:
    """The headers of another team."""

    async def make() -> str:
        store = await SqliteStore.open(plane.settings.data_dir / "api" / "cloister.db")
        _, secret = await Keys(store).create("other", "key")
        await store.close()
        return secret

    return {"X-API-KEY": asyncio.run(make())}


def build_now(plane: ControlPlane) -> tuple[str, str]:
    """A build that is ready."""
    plane.node.builds_run = True
    ids = build(plane, new_name())
    plane.node.builds_run = False
    return ids
