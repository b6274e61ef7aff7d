"""From a configuration to what is to be installed and started: the table of servers, and servers out of git repositories.

Pure: reads the table's files and nothing else. What comes in is the ``mcp`` option of the SDKs, ``{name: {field: value}}``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["OWN_TABLE", "GatewayError", "Plan", "Row", "Table", "read_table"]

OWN_TABLE = Path("/etc/mcp-gateway/servers.toml")
_FIELD = re.compile(r"\{(\w+)(\.\.\.)?\}")
_REPOSITORY = re.compile(r"github/([\w.-]+)/([\w.-]+)")
_CUSTOM = {"runCmd": "run_cmd", "installCmd": "install_cmd", "envs": "envs"}
"""Fields of a server out of a repository, as JavaScript writes them and as Python does."""


class GatewayError(Exception):
    """What is wrong with a configuration or a server, in words for the caller."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A server of the table."""

    name: str
    npm: str = ""
    pypi: str = ""
    url: str = ""
    apt: tuple[str, ...] = ()
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One configured server: where it comes from (``npm``, ``pypi``, ``url`` or ``repository``) and how it is started."""

    name: str
    npm: str = ""
    pypi: str = ""
    url: str = ""
    repository: str = ""
    apt: tuple[str, ...] = ()
    """Debian packages that it needs."""
    command: str = ""
    """A program of the package; a shell text for a repository."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    install: str = ""
    """A shell text that is run in the repository before the first start."""


def read_table(*paths: Path) -> Table:
    """The servers of ``paths``; a later file replaces those of an earlier one. Absent files have none.

    Raises:
        GatewayError: a file is not of the form that servers.toml describes.
    """
    rows: dict[str, Row] = {}
    for path in paths:
        if not path.exists():
            continue
        try:
            for name, entry in tomllib.loads(path.read_text()).items():
                values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
                rows[name] = Row(name=name, **values)
        except (ValueError, TypeError, AttributeError) as error:
            raise GatewayError(f"{path}: {error}") from error
    return Table(rows)


class Table:
    """The servers that are known by name."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = dict(rows)

    @property
    def names(self) -> list[str]:
        """All, sorted."""
        return sorted(self._rows)

    def pulls(self, names: Iterable[str]) -> list[Plan]:
        """What is to be installed for ``names``, whose configuration is not known yet.

        Raises:
            GatewayError: one of them is not known.
        """
        return [self._repository(name) or self._package(self._row(name)) for name in names]

    def plans(self, config: object) -> list[Plan]:
        """What is to be started for a configuration.

        Raises:
            GatewayError: names the server or the field that is missing, wrong or not known.
        """
        if not isinstance(config, dict) or not all(isinstance(values, dict) for values in config.values()):
            raise GatewayError("the configuration must be an object that has an object for each server")
        return [_custom(name, values) if name.startswith("github/") else self._plan(name, values) for name, values in config.items()]

    def _row(self, name: str) -> Row:
        if name not in self._rows:
            raise GatewayError(f"there is no MCP server '{name}'; there are: {', '.join(self.names)}, and github/<owner>/<repository>")
        return self._rows[name]

    def _package(self, row: Row) -> Plan:
        return Plan(name=row.name, npm=row.npm, pypi=row.pypi, url=row.url, apt=row.apt)

    def _repository(self, name: str) -> Plan | None:
        return Plan(name=name, repository=_repository(name)) if name.startswith("github/") else None

    def _plan(self, name: str, given: Mapping[str, Any]) -> Plan:
        row = self._row(name)
        values = _values(row, given)
        return Plan(
            name=name,
            npm=row.npm,
            pypi=row.pypi,
            apt=row.apt,
            url=_texts([row.url], values)[0] if row.url else "",
            command=row.command,
            args=tuple(_texts(row.args, values)),
            env=_filled(row.env, values),
            headers=_filled(row.headers, values),
        )


def _values(row: Row, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {name.rstrip("?") for name in row.fields}
    missing = sorted(name for name in row.fields if not name.endswith("?") and name not in given)
    unknown = sorted(set(given) - known - set(row.unused))
    if missing:
        raise GatewayError(f"{row.name}: {', '.join(missing)} must be configured")
    if unknown:
        raise GatewayError(f"{row.name}: unknown field {', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}")
    return {**row.defaults, **{name: value for name, value in given.items() if name in known and value is not None}}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def _texts(templates: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """``templates`` with fields replaced; one that names a field without a value is left out."""
    texts: list[str] = []
    for template in templates:
        spread = _FIELD.fullmatch(template)
        if spread and spread[2]:
            value = values.get(spread[1], [])
            texts += map(_text, value if isinstance(value, list) else [value])
        elif all(match[1] in values for match in _FIELD.finditer(template)):
            texts.append(_FIELD.sub(lambda match: _text(values[match[1]]), template))
    return texts


def _filled(templates: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, template in templates.items() for text in _texts([template], values)}


def _repository(name: str) -> str:
    found = _REPOSITORY.fullmatch(name)
    if found is None or {found[1], found[2]} & {".", ".."}:
        raise GatewayError(f"'{name}' is not of the form github/<owner>/<repository>")
    return f"{found[1]}/{found[2]}"


def _custom(name: str, given: Mapping[str, Any]) -> Plan:
    values = {plain: given.get(plain, given.get(snake)) for plain, snake in _CUSTOM.items()}
    unknown = sorted(set(given) - {*_CUSTOM, *_CUSTOM.values()})
    envs = values["envs"] or {}
    if unknown:
        raise GatewayError(f"{name}: unknown field {', '.join(unknown)}; there are: {', '.join(_CUSTOM)}")
    if not isinstance(values["runCmd"], str) or not values["runCmd"].strip():
        raise GatewayError(f"{name}: runCmd must be configured: the command that starts a server on standard input and output")
    if not isinstance(values["installCmd"] or "", str) or not isinstance(envs, dict):
        raise GatewayError(f"{name}: installCmd must be a text, and envs an object")
    return Plan(
        name=name,
        repository=_repository(name),
        command=values["runCmd"],
        install=values["installCmd"] or "",
        env={key: _text(value) for key, value in envs.items()},
    )
