"""Reads settings. The command line overrides the environment, which overrides the TOML file, which overrides the defaults.

An entry point calls :func:`load` once. Invariant: an unknown key or variable is an error that names it, because it is a typing error.
"""

from __future__ import annotations

import argparse
import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloister.config.checks import RANGES, Fault, find_faults, is_collector, range_remedy
from cloister.config.settings import SETTINGS, Settings
from cloister.errors import SettingsError

__all__ = ["CONFIG_VARIABLE", "DEFAULT_CONFIG_FILE", "add_arguments", "config_file", "ignored_endpoint", "load", "load_with_sources"]

DEFAULT_CONFIG_FILE = Path("/etc/cloister/cloister.toml")
CONFIG_VARIABLE = "CLOISTER_CONFIG"
_OWN_VARIABLES = frozenset({CONFIG_VARIABLE})
_PREFIX = "CLOISTER_"
_ENVIRONMENT = "environment"
_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""A variable of a standard, which counts where no other source has the setting. It may be meant for other programs of the host, so a value
that no server can use, such as a name and port for gRPC, is ignored."""
_HELP_COLUMN = 34
_EPILOG = "Environment variables (CLOISTER_...) and the TOML file also set these. docs/configuration.md describes each setting."


class _Formatter(argparse.HelpFormatter):
    """One line for each option where the terminal has 110 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_HELP_COLUMN)


def add_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Give ``parser`` the options of the settings ``names`` (default: all) in their groups, and ``--config``."""
    parser.formatter_class = _Formatter
    if not names:
        parser.usage = "%(prog)s [OPTION]..."
        parser.epilog = _EPILOG
    parser.add_argument("--config", metavar="FILE", help=f"TOML file of settings [{DEFAULT_CONFIG_FILE}]")
    for heading, rows in itertools.groupby(SETTINGS, key=lambda setting: setting.group):
        wanted = [setting for setting in rows if not names or setting.name in names]
        group = parser.add_argument_group(heading) if wanted else parser
        for setting in wanted:
            text = setting.help.removesuffix(".").replace("%", "%%")
            group.add_argument(setting.option, dest=setting.name, default=None, metavar=setting.metavar, help=text + setting.shown_default)


def load(
    arguments: argparse.Namespace | None,
    environ: Mapping[str, str],
    more_checks: Callable[[Settings], Sequence[Fault]] = lambda _settings: (),
) -> Settings:
    """The settings of this process. ``more_checks`` checks the host; it runs even if there are other faults.

    Raises:
        SettingsError: names are unknown, values are wrong, or values contradict each other. It lists all faults with their sources.
    """
    return load_with_sources(arguments, environ, more_checks)[0]


def load_with_sources(
    arguments: argparse.Namespace | None,
    environ: Mapping[str, str],
    more_checks: Callable[[Settings], Sequence[Fault]] = lambda _settings: (),
) -> tuple[Settings, dict[str, str]]:
    """As :func:`load`, with the source of each setting by its name; a setting without one has its default."""
    faults: list[str] = []
    given: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, values, unknown in _sources(arguments, environ):
        faults += [f"unknown setting in {source}: {name}{_nearest(name, source)}" for name in sorted(unknown)]
        for name, value in values.items():
            given[name] = value
            origin[name] = source
    converted: dict[str, Any] = {}
    wrong = set()
    for setting in SETTINGS:
        if setting.name in given:
            try:
                converted[setting.name] = setting.convert(given[setting.name])
            except (ValueError, TypeError, OverflowError) as error:
                wrong.add(setting.name)
                remedy = f"; {range_remedy(setting.name)}" if setting.name in RANGES else ""
                shown = "its value" if setting.is_secret else repr(given[setting.name])
                faults.append(f"setting {setting.name} ({origin[setting.name]}): {shown} {error}{remedy}")
    settings = Settings(**converted)
    for fault in (*find_faults(settings), *more_checks(settings)):
        if fault.setting not in wrong:  # the default stands in for the wrong value, so its faults mean nothing
            faults.append(fault.told(origin.get(fault.setting, "default")))
    if faults:
        raise SettingsError(*dict.fromkeys(faults))
    return settings, origin


_Values = tuple[str, dict[str, Any], set[str]]
"""A source, its values, and the unknown names in it."""


def config_file(arguments: argparse.Namespace | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The TOML file of settings, which may not exist, and whether it was named."""
    named = getattr(arguments, "config", None) or environ.get(CONFIG_VARIABLE)
    return Path(named) if named else DEFAULT_CONFIG_FILE, bool(named)


def _sources(arguments: argparse.Namespace | None, environ: Mapping[str, str]) -> Iterator[_Values]:
    """The sources, the weakest first."""
    endpoint = environ.get(_ENDPOINT_VARIABLE, "")
    yield _ENDPOINT_VARIABLE, {"otlp_endpoint": endpoint} if is_collector(endpoint) else {}, set()
    yield _from_toml(arguments, environ)
    yield _from_environment(environ)
    yield _from_arguments(arguments)


def ignored_endpoint(environ: Mapping[str, str]) -> str | None:
    """The value of the standard variable for the collector, if no server can use it."""
    endpoint = environ.get(_ENDPOINT_VARIABLE, "")
    return endpoint if endpoint and not is_collector(endpoint) else None


def _from_toml(arguments: argparse.Namespace | None, environ: Mapping[str, str]) -> _Values:
    path, named = config_file(arguments, environ)
    known = {setting.name for setting in SETTINGS}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if named:
            raise SettingsError(f"there is no settings file {path}", hint="give the path of a file that exists") from error
        return str(path), {}, set()
    except (OSError, ValueError) as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    return str(path), {name: value for name, value in values.items() if name in known}, set(values) - known


def _from_environment(environ: Mapping[str, str]) -> _Values:
    known = {setting.variable: setting.name for setting in SETTINGS}
    unknown = {name for name in environ if name.startswith(_PREFIX)} - set(known) - _OWN_VARIABLES
    return _ENVIRONMENT, {name: environ[variable] for variable, name in known.items() if variable in environ}, unknown


def _from_arguments(arguments: argparse.Namespace | None) -> _Values:
    values = {setting.name: getattr(arguments, setting.name, None) for setting in SETTINGS}
    return "command line", {name: value for name, value in values.items() if value is not None}, set()


def _nearest(name: str, source: str) -> str:
    """A question with the known name that is most similar to ``name``."""
    import difflib  # noqa: PLC0415 - slow to import, and only errors need it

    known = [setting.variable for setting in SETTINGS] if source == _ENVIRONMENT else [setting.name for setting in SETTINGS]
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else " (docs/configuration.md lists all)"
