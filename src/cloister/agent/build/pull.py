"""Build operation ``pull``: asks a registry for an image, or fetches it, with skopeo.

Runs in a sandbox on the tools tree (template/images.py), so that the network policy of sandboxes holds and whatever a registry answers
is read here and not on the host. Credentials come with the parameters, lie in a file in memory for the time of a call, and are in no
argument and no answer. A failure is an answer too, of a kind that the host decides upon::

    {"action": "inspect", reference, username?, password?}  ->  {"digest", "diff_ids", "envs", "user", "workdir", "starts"}
    {"action": "copy", ...}                                 ->  {}, with the layers as plain tars at /.image/<hex of the digest>
    either                                                  ->  {"failed": unreached | denied | missing | unfit | full | other, "message"}
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["run"]

_IMAGE = Path("/.image")
_SKOPEO = "/usr/bin/skopeo"
_MEMORY = Path("/dev/shm")  # noqa: S108  # a directory of its own is made in it
_INSPECT_S, _COPY_S = 30, 3000
_MAX_LAYERS = 100
_PLATFORM = ("--override-os", "linux", "--override-arch", "amd64")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_BLOCKED = r"pinging container registry .*(forbidden|\b40[37]\b|proxy authentication|method not allowed|blocked)|toomanyrequests|\b429\b"
"""A registry answers the first question with 200 or 401; anything else comes from something on the way. One that counts is none for now."""
_UNREACHED = (
    "no such host|server misbehaving|connection refused|connection reset|no route to host|network is unreachable|i/o timeout|"
    "deadline exceeded|proxyconnect|tls handshake timeout|temporary failure in name resolution|operation not permitted|"
    "permission denied|EOF|50[234] |status 50[234]|bad gateway|host is down"
)
_KINDS = (
    ("full", "no space left on device"),
    ("unreached", _BLOCKED),
    ("missing", r"manifest unknown|name unknown|name_unknown|not found|status 404|404 \(not found\)|repository .* not known"),
    (
        "denied",
        r"unauthorized|authentication required|access to the resource is denied|denied:|status 40[13]|40[13] \(|invalid username/password",
    ),
    ("unreached", _UNREACHED),
)


class _RefusedError(Exception):
    """Skopeo said no."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(params: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    reference = "docker://" + params["reference"]
    try:
        with _auth_file(params) as auth:
            return _inspect(reference, auth) if params["action"] == "inspect" else _copy(reference, auth)
    except _RefusedError as error:
        return {"failed": error.kind, "message": str(error)}


@contextmanager
def _auth_file(params: dict[str, Any]) -> Iterator[list[str]]:
    """Skopeo's options for the credentials; the file is gone at the end."""
    if not params.get("username"):
        yield []
        return
    words = f"{params['username']}:{params.get('password') or ''}".encode()
    document = {"auths": {params["reference"].split("/", 1)[0]: {"auth": base64.b64encode(words).decode()}}}
    with tempfile.TemporaryDirectory(dir=_MEMORY) as directory:
        path = Path(directory, "auth.json")
        path.write_text(json.dumps(document))
        yield ["--authfile", str(path)]


def _inspect(reference: str, auth: list[str]) -> dict[str, Any]:
    raw = _skopeo(["inspect", *auth, "--raw", reference], _INSPECT_S)
    manifest = _parsed(raw)
    if manifest.get("schemaVersion") == 1:
        raise _RefusedError("unfit", "its manifest is of schema 1, which registries gave up in 2017")
    if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
        _check_platforms(manifest)
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    pinned = f"{_without_tag(reference)}@{digest}"
    image = _parsed(_skopeo(["inspect", *auth, "--config", pinned], _INSPECT_S))
    if (image.get("os"), image.get("architecture")) != ("linux", "amd64"):
        raise _RefusedError("unfit", f"it is for {image.get('os')}/{image.get('architecture')}; only linux/amd64 runs here")
    diff_ids = list((image.get("rootfs") or {}).get("diff_ids") or [])
    if len(diff_ids) > _MAX_LAYERS:
        raise _RefusedError("unfit", f"it has {len(diff_ids)} layers; {_MAX_LAYERS} are possible")
    config = image.get("config") or {}
    return {
        "digest": digest,
        "diff_ids": diff_ids,
        "envs": dict(entry.split("=", 1) for entry in config.get("Env") or [] if "=" in entry),
        "user": config.get("User") or "",
        "workdir": config.get("WorkingDir") or "",
        "starts": [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])],
    }


def _check_platforms(index: dict[str, Any]) -> None:
    platforms = [entry.get("platform") or {} for entry in index.get("manifests") or []]
    named = {f"{one.get('os')}/{one.get('architecture')}" for one in platforms} - {"unknown/unknown", "None/None"}
    if named and "linux/amd64" not in named:
        raise _RefusedError("unfit", f"it is for {', '.join(sorted(named))}; only linux/amd64 runs here")


def _without_tag(reference: str) -> str:
    return re.sub(r"(@sha256:[0-9a-f]+|:[A-Za-z0-9_.-]+)\Z", "", reference)


def _copy(reference: str, auth: list[str]) -> dict[str, Any]:
    credentials = ["--src-authfile", auth[1]] if auth else []
    _skopeo(["copy", *credentials, "--dest-decompress", reference, f"dir:{_IMAGE}"], _COPY_S, shown=True)
    _IMAGE.chmod(0o755)
    for entry in os.scandir(_IMAGE):
        if entry.is_file(follow_symlinks=False):
            Path(entry.path).chmod(0o644)
    return {}


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _RefusedError("other", "the registry's answer is no description of an image")
    return document


def _skopeo(words: list[str], timeout_s: int, *, shown: bool = False) -> bytes:
    """Its standard output, which goes to the log if ``shown``. Raises: _RefusedError."""
    argv = [_SKOPEO, "--insecure-policy", f"--command-timeout={timeout_s}s", *_PLATFORM, *words]
    environ = {**os.environ, "HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent", "TMPDIR": "/var/tmp"}  # noqa: S108
    out = sys.stderr if shown else subprocess.PIPE
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, env=environ, check=False)
    if done.returncode == 0:
        return done.stdout or b""
    message = _last_words(done.stderr.decode(errors="replace"))
    raise _RefusedError(next((kind for kind, signs in _KINDS if re.search(signs, message, re.IGNORECASE)), "other"), message)


def _last_words(text: str) -> str:
    """What went wrong, of skopeo's log line."""
    line = next((line for line in reversed(text.strip().splitlines()) if "level=fatal" in line), text.strip().rpartition("\n")[2])
    found = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    message = found[1].replace('\\"', '"') if found else line
    return re.sub(r'\A(Error parsing image name "[^"]*"|Error parsing manifest for image): ', "", message)[-1000:]
