"""Writes docs/configuration.md from the settings table: ``python -m cloister.config.document docs/configuration.md``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cloister.config.settings import SETTINGS

__all__ = ["render"]

_HEAD = """# Configuration

<!-- Generated from src/cloister/config/settings.py by `python -m cloister.config.document docs/configuration.md`; do not edit. -->

Each setting can be given on the command line, in the environment or in a TOML file; the first of these that has it counts. The file is
`--config FILE`, else `CLOISTER_CONFIG`, else `/etc/cloister/cloister.toml` if it exists; its keys are the names below. Lists are separated
by commas on the command line and in the environment. A name that is not in this table is an error.
"""


def render() -> str:
    """The document's whole text."""
    parts = [_HEAD]
    for setting in SETTINGS:
        unit = f" ({setting.unit})" if setting.unit else ""
        choices = f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}." if setting.choices else ""
        parts.append(
            f"\n## {setting.name}\n\n{setting.help}{choices}\n\n"
            f"- type: {setting.kind}{unit}\n- default: {_default(setting.default)}\n"
            f"- command line: `{setting.option}`\n- environment: `{setting.variable}`\n"
        )
    return "".join(parts)


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "none" if value in (None, ()) else f"`{value}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
