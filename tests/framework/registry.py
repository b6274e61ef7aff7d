"""A registry of images: Debian's docker-registry in the pretend internet, by HTTPS, once open to everybody and once with a password.

Both show the same images. :meth:`Registry.push` speaks the registry's own protocol; images are made of tars here.
Source: OCI distribution-spec and image-spec, v1.1.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import ssl
import subprocess
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from framework.pretend_internet import WEB_ADDRESS, PretendInternet

__all__ = ["NAME", "PASSWORD", "USER", "Image", "Registry", "Shelf", "entry", "layer", "registry"]

NAME = "registry.example.com"
USER, PASSWORD = "reader", "open sesame"  # what the line below is made of
_HTPASSWD = f"{USER}:$2b$05$VYYJfQAs6VkgHOrddQQMtOGycHKgLxzPF0Ut8C4Mq2KmeXzlVWLuW\n"
_OPEN_PORT, _CLOSED_PORT = 5000, 5001
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a layer."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mtime = kind, len(data), 1_000_000_000
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@dataclass(kw_only=True)
class Image:
    """An image to push: plain tars, lowest first, and the configuration."""

    layers: Sequence[bytes]
    config: dict[str, Any] = field(default_factory=dict)
    packed: str = "gzip"
    """Or ``zstd``, or empty."""
    architecture: str = "amd64"
    diff_ids: Sequence[str] | None = None
    """None: the right ones."""
    elsewhere: str = ""
    """A URL that the layers are said to be at, instead of the registry."""
    index: bool = False
    """Whether it is listed in an index, beside one of another platform."""


class Shelf(ABC):
    """Images are put on one; where it is, its heirs say."""

    @abstractmethod
    def connect(self) -> http.client.HTTPConnection:
        """A connection to the registry."""

    def push(self, name: str, tag: str, image: Image) -> str:
        """Put the image there; returns its manifest's digest."""
        blobs = [(blob, self._packed(blob, image.packed)) for blob in image.layers]
        diff_ids = image.diff_ids if image.diff_ids is not None else [_digest(blob) for blob, _packed in blobs]
        rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
        config = json.dumps({"os": "linux", "architecture": image.architecture, "config": image.config, "rootfs": rootfs}).encode()
        suffix = f"+{image.packed}" if image.packed else ""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(name, config, _CONFIG),
            "layers": [self._blob(name, packed, _LAYER + suffix) for _blob, packed in blobs] if not image.elsewhere else [],
        }
        for _blob, packed in blobs if image.elsewhere else ():
            named = {"digest": _digest(packed), "size": len(packed), "urls": [image.elsewhere]}
            document["layers"].append({"mediaType": _FOREIGN, **named})
        digest, size = self.manifest(name, tag, document)
        if image.index:
            entry = {
                "mediaType": _MANIFEST,
                "digest": digest,
                "size": size,
                "platform": {"os": "linux", "architecture": image.architecture},
            }
            other = {**entry, "platform": {"os": "linux", "architecture": "arm64"}}
            digest, _size = self.manifest(name, tag, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [other, entry]})
        return digest

    def manifest(self, name: str, tag: str, document: dict[str, Any]) -> tuple[str, int]:
        """Put a manifest or an index there; its digest and size."""
        raw = json.dumps(document).encode()
        self._request("PUT", f"/v2/{name}/manifests/{tag}", raw, {"Content-Type": document["mediaType"]})
        return _digest(raw), len(raw)

    def _blob(self, name: str, data: bytes, kind: str) -> dict[str, Any]:
        place = self._request("POST", f"/v2/{name}/blobs/uploads/", b"", {})
        where = urlsplit(place)
        self._request("PUT", f"{where.path}?{where.query}&digest={_digest(data)}", data, {"Content-Type": "application/octet-stream"})
        return {"mediaType": kind, "digest": _digest(data), "size": len(data)}

    def _packed(self, data: bytes, how: str) -> bytes:
        if how == "zstd":
            return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout
        return gzip.compress(data, 1) if how else data

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status in (201, 202), f"{method} {path}: {answer.status} {said!r}"
            return answer.headers.get("Location", "")
        finally:
            connection.close()


class Registry(Shelf):
    """A running registry. ``open`` and ``closed`` are host and port of its two listeners, ``private`` is at another address."""

    def __init__(self, internet: PretendInternet, directory: Path, undo: ExitStack) -> None:
        self._internet = internet
        self._directory = directory
        self._undo = undo
        self.open, self.closed = f"{NAME}:{_OPEN_PORT}", f"{NAME}:{_CLOSED_PORT}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Serve on both listeners, with the images pushed before."""
        password = self._directory / "htpasswd"
        password.write_text(_HTPASSWD)
        for port, auth in ((_OPEN_PORT, None), (_CLOSED_PORT, {"htpasswd": {"realm": "test", "path": str(password)}})):
            config: dict[str, Any] = {
                "version": 0.1,
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(self._directory / "data")}},
                "validation": {"manifests": {"urls": {"allow": [".*"]}}},
                "http": {"addr": f"0.0.0.0:{port}", "tls": dict.fromkeys(("certificate", "key"), str(self._internet.certificate))},
            }
            if auth:
                config["auth"] = auth
            path = self._directory / f"{port}.json"  # which is YAML too
            path.write_text(json.dumps(config))
            with (self._directory / "log").open("ab") as log:
                command = ["nsenter", f"--net={self._internet.namespace}", "docker-registry", "serve", str(path)]
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._processes.append(process)
            self._undo.callback(_end, process)
        self._wait(_OPEN_PORT)
        self._wait(_CLOSED_PORT)

    def stop(self) -> None:
        """Nothing listens any more."""
        for process in self._processes:
            _end(process)
        self._processes.clear()

    def connect(self, port: int = _OPEN_PORT) -> http.client.HTTPSConnection:
        """See :class:`Shelf`."""
        context = ssl.create_default_context(cafile=str(self._internet.ca_file))
        return http.client.HTTPSConnection(WEB_ADDRESS, port, timeout=30, context=context)

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + 20
        while True:
            connection = self.connect(port)
            try:
                connection.request("GET", "/v2/")
                connection.getresponse().read()
            except OSError:
                assert time.monotonic() < deadline, (self._directory / "log").read_text()
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def registry(internet: PretendInternet, directory: Path) -> Iterator[Registry]:
    """A :class:`Registry` for the time of a ``with``."""
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        yield Registry(internet, directory, undo)
