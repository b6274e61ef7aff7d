"""Reads settings: command line over environment over TOML file over defaults, validated, frozen.

Called once, by an entry point. Invariant: what is not understood is refused by name (an unknown key or variable is a typing error of
the operator, not something to pass over).
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloister.config.settings import SETTINGS, Settings
from cloister.errors import InvalidRequestError

__all__ = ["CONFIG_VARIABLE", "DEFAULT_CONFIG_FILE", "add_arguments", "load"]

DEFAULT_CONFIG_FILE = Path("/etc/cloister/cloister.toml")
CONFIG_VARIABLE = "CLOISTER_CONFIG"
_OWN_VARIABLES = frozenset({CONFIG_VARIABLE})


def add_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Give ``parser`` the options of the settings ``names`` (default: all) and ``--config``."""
    group = parser.add_argument_group("settings", "each also by environment (CLOISTER_…) and TOML; see docs/configuration.md")
    group.add_argument("--config", metavar="FILE", help=f"TOML file of settings (default {DEFAULT_CONFIG_FILE} if it exists)")
    for setting in SETTINGS:
        if not names or setting.name in names:
            text = setting.help.replace("%", "%%")
            metavar = setting.unit.upper() or setting.kind.upper()
            group.add_argument(setting.option, dest=setting.name, default=None, metavar=metavar, help=text)


def load(arguments: argparse.Namespace | None, environ: Mapping[str, str]) -> Settings:
    """The settings that hold for this process.

    Raises:
        InvalidRequestError: a value is wrong or a name unknown; the message says which and where it came from.
    """
    given: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, values in (_from_toml(arguments, environ), _from_environment(environ), _from_arguments(arguments)):
        for name, value in values.items():
            given[name] = value
            origin[name] = source
    converted = {}
    for setting in SETTINGS:
        if setting.name in given:
            try:
                converted[setting.name] = setting.convert(given[setting.name])
            except (ValueError, TypeError) as error:
                raise InvalidRequestError(f"setting {setting.name} ({origin[setting.name]}): {error}") from error
    return Settings(**converted)


def _from_toml(arguments: argparse.Namespace | None, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = getattr(arguments, "config", None) or environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else DEFAULT_CONFIG_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if named:
            raise InvalidRequestError(f"there is no settings file {path}") from error
        return str(path), {}
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"settings file {path}: {error}") from error
    _refuse_unknown(str(path), set(values) - {setting.name for setting in SETTINGS})
    return str(path), values


def _from_environment(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    known = {setting.variable: setting.name for setting in SETTINGS}
    _refuse_unknown("environment", {name for name in environ if name.startswith("CLOISTER_")} - set(known) - _OWN_VARIABLES)
    return "environment", {name: environ[variable] for variable, name in known.items() if variable in environ}


def _from_arguments(arguments: argparse.Namespace | None) -> tuple[str, dict[str, Any]]:
    values = {setting.name: getattr(arguments, setting.name, None) for setting in SETTINGS}
    return "command line", {name: value for name, value in values.items() if value is not None}


def _refuse_unknown(source: str, names: set[str]) -> None:
    if names:
        raise InvalidRequestError(f"unknown setting in {source}: {', '.join(sorted(names))}")
