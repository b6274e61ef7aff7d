"""The host layer: a tree with the host's settings for its sandboxes, stacked above every template and stored in none.

Owns ``<data>/hostlayer``: certificates, the package sources of pip, npm, apt and R, the resolver address, and the mount points of
``/.cloister``. It holds no secrets: addresses with credentials are left out unless the operator asks for them, paths of the host always.
:attr:`HostLayer.notes` names what was left out. Trees are named by their content and never change, because running sandboxes keep the one
they started with.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from cloister.linux.files import make_directory
from cloister.template.apt import deb822, debian_sources, has_credentials, host_codename, read_options
from cloister.tls.trusted import fingerprint, read_trusted, to_java_truststore, to_pem

__all__ = ["BUNDLE", "HostLayer", "HostLayerConfig", "build_host_layer", "overlaid_files"]

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""The certificate bundle inside a sandbox, on every distribution."""

_JAVA_STORE = "etc/ssl/certs/java/cacerts"
_LOCAL_CERTIFICATES = "etc/ca-certificates/host"
_MOUNT_POINTS = ".cloister"
_CA_VARIABLES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE",
)  # fmt: skip
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[?::1\]?)\Z")
_PIP_KEYS = (
    "index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "retries", "proxy", "no-index", "find-links", "index",
)  # fmt: skip
_NPM_KEYS = re.compile(r"(registry|@[^:]+:registry|strict-ssl|proxy|https-proxy|noproxy|fetch-timeout|fetch-retries|maxsockets)\Z")
_HOOK = f"""#!/bin/sh
# Keeps the certificates of the host in the bundle when update-ca-certificates makes it anew.
set -e
for file in /etc/ca-certificates/host/*.crt; do
    [ -e "$file" ] || continue
    cat "$file" >> {BUNDLE}
done
"""


_RELEASES = {"base/system": "trixie", "bookworm/system": "bookworm"}
"""Name of a lowest layer to its Debian release."""
_SOURCES = "etc/apt/sources.list.d/debian.sources"
_LOGIN_PATH = """\
# A PATH that the template, the sandbox or the call sets holds in login shells too; /etc/profile has just set the distribution's.
if [ -n "${CLOISTER_LOGIN_PATH-}" ]; then
  PATH=$CLOISTER_LOGIN_PATH
  export PATH
fi
unset CLOISTER_LOGIN_PATH
"""


@dataclass(frozen=True, kw_only=True)
class HostLayerConfig:
    """The inputs of the layer. ``host_root`` and ``environ`` are the host's, except in tests."""

    resolver: str
    """Address of the sandboxes' resolver, for /etc/resolv.conf."""
    extra_ca_file: Path | None = None
    """PEM file of certificates to trust beside the host's."""
    include_credentials: bool = False
    """Include package indexes and proxies that carry a user name or password. Every program in a sandbox can read them."""
    suite: str = "trixie"
    """Debian release that the apt sources are for."""
    host_root: Path = Path("/")
    home: Path = Path("/root")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, kw_only=True)
class HostLayer:
    """A built host layer: its tree, its environment variables, and notes on what was left out and why."""

    path: Path
    envs: dict[str, str]
    notes: tuple[str, ...] = ()
    releases: dict[str, Path] = field(default_factory=dict)
    """By Debian release: trees with the apt sources for it. "" is for every other system and has no apt sources."""

    def over(self, lowest: str) -> Path:
        """The tree for layers whose lowest one has that name (``Layer.name``). apt must not mix releases."""
        return self.releases.get(_RELEASES.get(lowest, ""), self.path)


def build_host_layer(target: Path, config: HostLayerConfig) -> HostLayer:
    """Build the layer below ``target``, unless one with the same content is there. It appears by one rename.

    Raises:
        InvalidRequestError: the extra CA file cannot be read or holds no certificate.
    """
    notes: list[str] = []
    files = _files(config, notes)
    releases = {config.suite: _ensure_tree(target, files)}
    bare = {name: content for name, content in files.items() if name != _SOURCES}
    releases[""] = _ensure_tree(target, bare)
    for suite in set(_RELEASES.values()) - {config.suite}:
        sources = _apt(replace(config, suite=suite), []).get(_SOURCES)
        releases[suite] = _ensure_tree(target, bare if sources is None else {**bare, _SOURCES: (0o644, sources.encode())})
    return HostLayer(path=releases[config.suite], envs=_environment(config, notes), notes=tuple(notes), releases=releases)


def _ensure_tree(target: Path, files: dict[str, tuple[int, bytes]]) -> Path:
    same = {name: content for name, content in files.items() if name != _JAVA_STORE}  # has a random salt; its certificates are the bundle's
    digest = hashlib.sha256(repr(sorted(same.items())).encode()).hexdigest()
    path = target / digest[:32]
    if not path.is_dir():
        make_directory(target)
        temporary = target / f".{secrets.token_hex(6)}"
        _write_tree(temporary, files)
        try:
            temporary.rename(path)
        except OSError:
            shutil.rmtree(temporary)
            if not path.is_dir():
                raise
    return path


@lru_cache(maxsize=64)
def overlaid_files(tree: Path) -> tuple[str, ...]:
    """Paths in a sandbox where the host layer ``tree`` hides the template's files: its files, and the directory of local certificates.

    A tree without the mount points is no host layer: it has no such paths.
    """
    if not (tree / _MOUNT_POINTS).is_dir():
        return ()
    files = (path.relative_to(tree) for path in sorted(tree.rglob("*")) if not path.is_dir())
    names = (str(name) for name in files)
    return tuple(dict.fromkeys(_LOCAL_CERTIFICATES if name.startswith(_LOCAL_CERTIFICATES) else name for name in names))


def _files(config: HostLayerConfig, notes: list[str]) -> dict[str, tuple[int, bytes]]:
    """All files of the layer: path inside to mode and content."""
    texts = {
        "etc/pip.conf": _pip_conf(config, notes),
        "etc/npmrc": _npmrc(config, notes),
        "etc/resolv.conf": f"nameserver {config.resolver}\noptions edns0\n",
        "etc/hosts": "127.0.0.1 localhost cloister\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/hostname": "cloister\n",
        "etc/profile.d/00-cloister-path.sh": _LOGIN_PATH,
        **_apt(config, notes),
        **_r_profile(config, notes),
    }
    files = {name: (0o644, text.encode()) for name, text in texts.items()}
    return files | _certificates(config)


def _certificates(config: HostLayerConfig) -> dict[str, tuple[int, bytes]]:
    trusted = read_trusted(config.host_root, config.environ.get("SSL_CERT_FILE"), config.extra_ca_file)
    files = {
        BUNDLE.removeprefix("/"): (0o644, to_pem(trusted.all)),
        _JAVA_STORE: (0o644, to_java_truststore(trusted.all)),
        "etc/ca-certificates/update.d/zz-cloister-host": (0o755, _HOOK.encode()),
    }
    for certificate in trusted.local:
        files[f"{_LOCAL_CERTIFICATES}/{fingerprint(certificate)[:16]}.crt"] = (0o644, to_pem([certificate]))
    return files


def _pip_conf(config: HostLayerConfig, notes: list[str]) -> str:
    found: dict[str, str] = {}
    etc = config.host_root / "etc"
    for path in (etc / "xdg/pip/pip.conf", etc / "pip.conf", config.home / ".pip/pip.conf", config.home / ".config/pip/pip.conf"):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError) as error:
            notes.append(f"{path} was left out: {error}")
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key: value for key, value in parser.items(section) if key in _PIP_KEYS}
    for key in _PIP_KEYS:
        if value := config.environ.get("PIP_" + key.upper().replace("-", "_")):
            found[key] = value
    kept = {key: words for key, value in found.items() if (words := _usable(f"pip {key}", value.split(), config, notes))}
    lines = ["[global]", f"cert = {BUNDLE}"]
    lines += ["break-system-packages = true", "disable-pip-version-check = true", "root-user-action = ignore"]
    lines += [f"{key} = " + "\n    ".join(words) for key, words in sorted(kept.items())]
    return "\n".join(lines) + "\n"


def _npmrc(config: HostLayerConfig, notes: list[str]) -> str:
    found: dict[str, str] = {}
    for path in ("usr/local/etc/npmrc", "usr/etc/npmrc", "etc/npmrc"):
        found |= _read_npmrc(config.host_root / path)
    found |= _read_npmrc(config.home / ".npmrc")
    for key in ("registry", "proxy", "https_proxy", "noproxy", "strict_ssl"):
        if value := config.environ.get(f"npm_config_{key}", config.environ.get(f"NPM_CONFIG_{key.upper()}")):
            found[key.replace("_", "-")] = value
    kept = {key: value for key, value in found.items() if _usable(f"npm {key}", [value], config, notes)}
    return "\n".join([f"cafile={BUNDLE}", *(f"{key}={value}" for key, value in sorted(kept.items()))]) + "\n"


def _read_npmrc(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = path.read_text(errors="replace").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and line.strip()[:1] not in "#;")
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs if _NPM_KEYS.match(key.strip()) and "${" not in value}


def _apt(config: HostLayerConfig, notes: list[str]) -> dict[str, str]:
    etc = config.host_root / "etc"
    sources = [
        source
        for source in debian_sources(etc / "apt", host_codename(etc / "os-release"), config.suite)
        if _usable("apt source", [source.uri], config, notes)
    ]
    options = {name: value for name, value in read_options(etc / "apt").items() if _usable(f"apt {name}", [value], config, notes)}
    files = {}
    if options:
        files["etc/apt/apt.conf.d/99cloister-host"] = "".join(f'{name} "{value}";\n' for name, value in sorted(options.items()))
    if sources:
        files[_SOURCES] = deb822(sources)
    return files


def _r_profile(config: HostLayerConfig, notes: list[str]) -> dict[str, str]:
    """R's site profile, if the host's names a package repository."""
    path = config.host_root / "etc/R/Rprofile.site"
    if not path.is_file():
        return {}
    match = re.search(r"""(?m)^[^#\n]*\[?["']?CRAN["']?\]?\s*(?:<-|=)\s*["']([^"'\s]+)["']""", path.read_text(errors="replace"))
    if match is None or not _usable("R repository", [match[1]], config, notes):
        return {}
    return {"etc/R/Rprofile.site": f'local({{\n    r <- getOption("repos")\n    r["CRAN"] <- "{match[1]}"\n    options(repos = r)\n}})\n'}


def _usable(what: str, words: list[str], config: HostLayerConfig, notes: list[str]) -> list[str]:
    """The ``words`` that work in a sandbox. Adds a note, without secrets, on each of the others."""
    kept = []
    for word in words:
        parts = urlsplit(word)
        if word.startswith(("/", "~", "./", "file:")):
            notes.append(f"{what} was left out: it names a path of the host")
        elif parts.scheme and has_credentials(word) and not config.include_credentials:
            notes.append(f"{what} was left out: it carries credentials")
        elif parts.scheme and _LOOPBACK.match(parts.hostname or ""):
            notes.append(f"{what} was left out: it names the host's loopback, which no sandbox reaches")
        else:
            kept.append(word)
    return kept


def _environment(config: HostLayerConfig, notes: list[str]) -> dict[str, str]:
    envs = dict.fromkeys(_CA_VARIABLES, BUNDLE)
    for name in _PROXY_VARIABLES:
        value = config.environ.get(name) or config.environ.get(name.upper())
        if value and (name == "no_proxy" or _usable(name, [value if "//" in value else f"http://{value}"], config, notes)):
            envs |= {name: value, name.upper(): value}
    return envs


def _write_tree(root: Path, files: dict[str, tuple[int, bytes]]) -> None:
    for mount_point in ("rt", "agent", "cgroup"):
        (root / _MOUNT_POINTS / mount_point).mkdir(parents=True)
    for name, (mode, content) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    for directory in (root, *(path for path in root.rglob("*") if path.is_dir())):
        directory.chmod(0o755)


