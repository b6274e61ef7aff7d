"""Writes docs/configuration.md from the settings table: ``python -m cloister.config.document docs/configuration.md``."""

from __future__ import annotations

import itertools
import sys
import textwrap
from pathlib import Path
from typing import Any

from cloister.config.checks import RANGES
from cloister.config.setting import Setting
from cloister.config.settings import SETTINGS

__all__ = ["render"]

_HEAD = """# Configuration

<!-- Generated from src/cloister/config/settings.py by
`python -m cloister.config.document docs/configuration.md`; do not edit. -->

A setting can be given on the command line, in the environment or in a TOML file. The first of
these that has it counts. The file is `--config FILE`, else `CLOISTER_CONFIG`, else
`/etc/cloister/cloister.toml` if it exists. Its keys are the names below. Separate the items of a
list with commas on the command line and in the environment. A name that is not listed here is an
error.

Every command checks all settings before it does anything: their types, ranges and forms, and
whether they fit each other and this host. It prints one line for each fault,
`setting NAME (SOURCE): cause; remedy`, and exits with code 2.
"""
_COLUMNS = 96


def render() -> str:
    """The document's whole text."""
    parts = [_HEAD]
    for heading, rows in itertools.groupby(SETTINGS, key=lambda setting: setting.group):
        parts.append(f"\n## {heading}\n")
        parts += [_section(setting) for setting in rows]
    return "".join(parts)


def _section(setting: Setting) -> str:
    unit = f" ({setting.unit})" if setting.unit else ""
    choices = f"One of {', '.join(f'`{choice}`' for choice in setting.choices)}." if setting.choices else ""
    text = " ".join(part for part in (setting.help, setting.details, choices) if part)
    return (
        f"\n### {setting.name}\n\n{textwrap.fill(text, _COLUMNS, break_on_hyphens=False)}\n\n"
        f"- type: {setting.kind}{unit}{_range(setting.name)}\n- default: {_default(setting.default)}\n"
        f"- command line: `{setting.option}`\n- environment: `{setting.variable}`\n"
    )


def _range(name: str) -> str:
    if name not in RANGES:
        return ""
    least, most = RANGES[name]
    return f", {least:,.10g} to {most:,.10g}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "none" if value in (None, ()) else f"`{value}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
