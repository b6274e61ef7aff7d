"""Build operation ``pull``: asks a registry for an image, or fetches it, with skopeo.

Runs in a sandbox on the tools tree (template/images/tools.py): so sandboxes' network policy applies, and answers are read here, not on the
host. Credentials come with the parameters and are in a memory file during a call. No argument and no answer has them. A failure
is an answer, too, whose kind the host uses::

    {"action": "inspect", reference, username?, password?, is_aws_key?}  ->  {"digest", "diff_ids", "envs", "user", "workdir", "starts"}
    {"action": "copy", ...}                                 ->  {}, with the layers as plain tars at /.image/<hex of the digest>
    either                                                  ->  {"failed": one of the kinds below, or "other", "message"}

``is_aws_key``: user and password are an access key's id and secret. Debian's helper gets them in its environment and asks Amazon for the
registry's password. ``insecure``: a registry without TLS is accepted, and ``plain`` in the answer says that it has none; an invalid
certificate is refused all the same. ``forwarded``: the registry's name is to lead to this sandbox's own loopback, where a port forward
listens.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["run"]

_IMAGE = Path("/.image")
_SKOPEO = "/usr/bin/skopeo"
_HOSTS = Path("/etc/hosts")
_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in it
_INSPECT_S, _COPY_S = 30, 3000
_MAX_LAYERS = 100
_PLATFORM = ("--override-os", "linux", "--override-arch", "amd64")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_BLOCKED = r"pinging container registry .*(forbidden|\b40[37]\b|proxy authentication|method not allowed|blocked)|toomanyrequests|\b429\b"
"""A registry answers the first request with 200 or 401; any other answer is from a proxy. Such an answer counts as: no registry for now."""
_UNREACHED = (
    "no such host|server misbehaving|connection refused|connection reset|no route to host|network is unreachable|i/o timeout|"
    "deadline exceeded|proxyconnect|tls handshake timeout|temporary failure in name resolution|operation not permitted|"
    "permission denied|EOF|50[234] |status 50[234]|bad gateway|host is down"
)
_KINDS = (
    ("denied", r"GetAuthorizationToken.* StatusCode: 4"),
    ("full", "no space left on device"),
    ("plain", "server gave HTTP response to HTTPS client|first record does not look like a TLS handshake"),
    ("untrusted", "x509:|failed to verify certificate"),
    ("unreached", _BLOCKED),
    ("missing", r"manifest unknown|name unknown|name_unknown|not found|status 404|404 \(not found\)|repository .* not known"),
    (
        "denied",
        r"unauthorized|authentication required|access to the resource is denied|denied:|status 40[13]|40[13] \(|invalid username/password",
    ),
    ("unreached", _UNREACHED),
)


class _RefusedError(Exception):
    """Skopeo refused."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(params: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    reference = "docker://" + params["reference"]
    if params.get("forwarded"):
        _lead_here(params["reference"])
    try:
        with _login(params) as login:
            skopeo = _Skopeo(params, login.environ)
            return _inspect(skopeo, reference, login.options) if params["action"] == "inspect" else _copy(skopeo, reference, login.options)
    except _RefusedError as error:
        return {"failed": error.kind, "message": str(error)}


def _lead_here(reference: str) -> None:
    """Make the registry's name loopback's. An address is loopback's already, and a proxy is used for neither."""
    host = _registry(reference).partition(":")[0]
    if host != "localhost" and not re.fullmatch(r"[0-9.]+", host):
        with _HOSTS.open("a") as hosts:
            hosts.write(f"127.0.0.1 {host}\n")
    others = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, (host, others)))


def _registry(reference: str) -> str:
    return reference.split("/", 1)[0]


@dataclass(frozen=True)
class _Login:
    """Skopeo's options for the credentials, and variables of its environment."""

    options: list[str]
    environ: dict[str, str]


@contextmanager
def _login(params: dict[str, Any]) -> Iterator[_Login]:
    """The files and variables of the credentials; the files are removed at the end."""
    if not params.get("username"):
        yield _Login([], {"HOME": "/nonexistent"})
        return
    registry, username, password = _registry(params["reference"]), params["username"], params.get("password") or ""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as directory:
        environ = {"HOME": directory}
        if params.get("is_aws_key"):
            document: dict[str, Any] = {"credHelpers": {registry: "ecr-login"}}
            environ |= {"AWS_ACCESS_KEY_ID": username, "AWS_SECRET_ACCESS_KEY": password, "AWS_ECR_DISABLE_CACHE": "true"}
        else:
            document = {"auths": {registry: {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}}}
        path = Path(directory, "auth.json")
        path.write_text(json.dumps(document))
        yield _Login(["--authfile", str(path)], environ)


def _inspect(skopeo: _Skopeo, reference: str, auth: list[str]) -> dict[str, Any]:
    raw = skopeo.run(["inspect", *auth, "--raw", reference], _INSPECT_S)
    manifest = _parsed(raw)
    if manifest.get("schemaVersion") == 1:
        raise _RefusedError("unfit", "its manifest is of schema 1, which registries gave up in 2017")
    if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
        _check_platforms(manifest)
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    pinned = f"{_without_tag(reference)}@{digest}"
    image = _parsed(skopeo.run(["inspect", *auth, "--config", pinned], _INSPECT_S))
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
        "plain": skopeo.is_plain,
    }


def _check_platforms(index: dict[str, Any]) -> None:
    platforms = [entry.get("platform") or {} for entry in index.get("manifests") or []]
    named = {f"{one.get('os')}/{one.get('architecture')}" for one in platforms} - {"unknown/unknown", "None/None"}
    if named and "linux/amd64" not in named:
        raise _RefusedError("unfit", f"it is for {', '.join(sorted(named))}; only linux/amd64 runs here")


def _without_tag(reference: str) -> str:
    return re.sub(r"(@sha256:[0-9a-f]+|:[A-Za-z0-9_.-]+)\Z", "", reference)


def _copy(skopeo: _Skopeo, reference: str, auth: list[str]) -> dict[str, Any]:
    credentials = ["--src-authfile", auth[1]] if auth else []
    skopeo.run(["copy", *credentials, "--dest-decompress", reference, f"dir:{_IMAGE}"], _COPY_S, shown=True)
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


class _Skopeo:
    """Calls of skopeo for one registry."""

    def __init__(self, params: dict[str, Any], environ: dict[str, str]) -> None:
        self._environ = {**os.environ, "XDG_RUNTIME_DIR": "/nonexistent", "TMPDIR": "/var/tmp", **environ}  # noqa: S108 - the build sandbox is its own
        self._may_be_plain = bool(params.get("insecure"))
        self._has_port = bool(re.search(r":[0-9]+\Z", _registry(params["reference"])))
        self.is_plain = False
        """Whether the registry turned out to have no TLS."""

    def run(self, words: list[str], timeout_s: int, *, shown: bool = False) -> bytes:
        """Skopeo's standard output, which goes to the log if ``shown``. It uses TLS; without TLS only if that is allowed and the registry
        does not speak it. Raises: _RefusedError.
        """
        if not self.is_plain:
            try:
                return self._call(words, timeout_s, shown=shown)
            except _RefusedError as error:
                # without a port, plain HTTP uses another one
                if not self._may_be_plain or not (error.kind == "plain" or (error.kind == "unreached" and not self._has_port)):
                    raise
        self.is_plain = True
        option = "--src-tls-verify=false" if words[0] == "copy" else "--tls-verify=false"
        return self._call([words[0], option, *words[1:]], timeout_s, shown=shown)

    def _call(self, words: list[str], timeout_s: int, *, shown: bool) -> bytes:
        argv = [_SKOPEO, "--insecure-policy", f"--command-timeout={timeout_s}s", *_PLATFORM, *words]
        out = sys.stderr if shown else subprocess.PIPE
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, env=self._environ, check=False)
        if done.returncode == 0:
            return done.stdout or b""
        message = self._helpers_words() or _last_words(done.stderr.decode(errors="replace"))
        raise _RefusedError(next((kind for kind, signs in _KINDS if re.search(signs, message, re.IGNORECASE)), "other"), message)

    def _helpers_words(self) -> str:
        """The error with Amazon, from the helper's log."""
        path = Path(self._environ["HOME"], ".ecr/log/ecr-login.log")
        found = re.findall(r'level=error .* error="((?:[^"\\]|\\.)*)"', path.read_text()) if path.exists() else []
        return found[-1].replace('\\"', '"')[-1000:] if found else ""


def _last_words(text: str) -> str:
    """The error, from skopeo's log line."""
    line = next((line for line in reversed(text.strip().splitlines()) if "level=fatal" in line), text.strip().rpartition("\n")[2])
    found = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    message = found[1].replace('\\"', '"') if found else line
    return re.sub(r'\A(Error parsing image name "[^"]*"|Error parsing manifest for image): ', "", message)[-1000:]
