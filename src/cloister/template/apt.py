"""The host's apt configuration, read and translated for a Debian template: mirrors, proxies, options.

Pure functions on text, apart from reading the files below ``/etc/apt``. It must not run apt, and it never passes a credential on.
Source: sources.list(5), apt.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["AptSource", "deb822", "debian_sources", "has_credentials", "host_codename", "read_options", "security_mirror"]

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_POCKETS = ("", "-updates", "-security")
_OPTIONS = re.compile(
    r"^\s*(Acquire::(?:Check-[A-Za-z-]+|https?::(?:Proxy|Timeout|Pipeline-Depth)|Retries|Max-FutureTime|ForceIPv[46]))"
    r'\s+"([^"]*)"\s*;',
    re.MULTILINE,
)


@dataclass(frozen=True)
class AptSource:
    """One source of packages of one suite."""

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    options: tuple[tuple[str, str], ...] = ()


def has_credentials(url: str) -> bool:
    """Whether ``url`` carries a user name or password."""
    return "@" in urlsplit(url).netloc


def host_codename(os_release: Path) -> str:
    """The release name of a Debian host; ``none`` for any other."""
    text = os_release.read_text() if os_release.is_file() else ""
    fields = dict(re.findall(r'(?m)^([A-Z_]+)="?([^"\n]*)"?$', text))
    return fields.get("VERSION_CODENAME", "none") if fields.get("ID") == "debian" else "none"


def debian_sources(etc_apt: Path, codename: str, suite: str) -> list[AptSource]:
    """The host's Debian mirrors, with its own ``codename`` turned into ``suite``; empty when the host is no Debian or has none.

    Sources of third parties are left alone: only those that serve ``main`` of the release itself under a path named ``debian…`` count.
    """
    found = []
    for source in _read_sources(etc_apt):
        pocket = source.suite.removeprefix(codename)
        path = urlsplit(source.uri).path.rstrip("/").rsplit("/", 1)[-1]
        if source.suite.startswith(codename) and pocket in _POCKETS and "main" in source.components and path.startswith("debian"):
            found.append(AptSource(source.uri, suite + pocket, ("main",), source.options))
    return list(dict.fromkeys(found))


def security_mirror(mirror: str) -> str | None:
    """The place of the security suite beside the archive ``mirror``, by Debian's own layout; None when it does not follow that."""
    stem = mirror.rstrip("/")
    return f"{stem}-security" if stem.endswith("/debian") else None


def deb822(sources: list[AptSource]) -> str:
    """``sources`` as the text of a ``.sources`` file. Every one is checked against Debian's archive keys."""
    stanzas = []
    for source in sources:
        lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {source.suite}", f"Components: {' '.join(source.components)}"]
        lines += [f"{name}: {value}" for name, value in source.options]
        stanzas.append("\n".join([*lines, f"Signed-By: {_KEYRING}"]))
    return "\n\n".join(stanzas) + "\n"


def read_options(etc_apt: Path) -> dict[str, str]:
    """Options of the host's apt that make sense inside: proxies, time limits and checks; not its hooks, paths or authentication."""
    texts = [etc_apt / "apt.conf", *sorted((etc_apt / "apt.conf.d").glob("*"))]
    found: dict[str, str] = {}
    for path in texts:
        if path.is_file():
            found |= dict(_OPTIONS.findall(path.read_text(errors="replace")))
    return found


def _read_sources(etc_apt: Path) -> Iterator[AptSource]:
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        yield from _parse_deb822(text) if path.suffix == ".sources" else _parse_list(text)


def _parse_list(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = re.match(r"^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match and "signed-by" not in (match[1] or "").lower().replace(_KEYRING, "").replace("signed-by=", "", 1):
            yield AptSource(match[2], match[3], tuple(match[4].split()))


def _parse_deb822(text: str) -> Iterator[AptSource]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {name.lower(): value.strip() for name, value in re.findall(r"(?m)^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", stanza)}
        signed = fields.get("signed-by", "")
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        if signed and "debian-archive" not in signed:
            continue
        options = tuple((name, fields[name.lower()]) for name in ("Check-Valid-Until", "Check-Date") if name.lower() in fields)
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield AptSource(uri, suite, tuple(fields.get("components", "").split()), options)
