"""Finds ``runsc`` on this host: a program of the operator's, or the one that ``cloister runtime install gvisor`` has put into the store.

Never takes one from ``PATH``: distributions ship old ones, which fail on today's kernels and know none of our options.
Runs in: supervisor, ``cloister doctor`` and ``cloister runtime``. Needs: nothing.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import UnavailableError

__all__ = ["INSTALL_HINT", "RELEASE", "RUNSC_DIR", "Runsc", "check_runsc", "find_runsc", "installed_runsc"]

RUNSC_DIR = "gvisor"
"""Where ``cloister runtime install gvisor`` puts the program, below the store."""
RELEASE = "20260905"
"""The date of the oldest release that is known to work; the one that is built is of this date (``source/go.mod``)."""
INSTALL_HINT = "run `cloister runtime install gvisor`, which builds one for this server only"
_SETTING_HINT = f"correct the setting runsc; or leave it out, and {INSTALL_HINT}"
_VERSION = re.compile(r"^runsc version (\S+)$", re.MULTILINE)
_DATE = re.compile(r"(?<!\d)20\d{6}(?!\d)")
_VERSION_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Runsc:
    """A ``runsc`` of this host."""

    path: Path
    version: str
    """As it says itself. A restore needs exactly the version that made the image."""


def installed_runsc(store_dir: Path) -> Path:
    """Where the installed program is, whether it is there or not."""
    return store_dir / RUNSC_DIR / "runsc"


def find_runsc(setting: Path | None, store_dir: Path) -> Runsc:
    """The program of the setting ``runsc``, or without it the installed one. It was not tried: see ``probe.py``.

    Raises: UnavailableError, with the remedy.
    """
    if setting is not None:
        try:
            return check_runsc(setting)
        except UnavailableError as error:  # the setting goes before what an installation puts into the store
            raise UnavailableError(error.message, hint=_SETTING_HINT if error.hint == INSTALL_HINT else error.hint) from error
    path = installed_runsc(store_dir)
    if not path.exists():
        raise UnavailableError("runsc is not installed", hint=INSTALL_HINT)
    return check_runsc(path)


def check_runsc(path: Path) -> Runsc:
    """The program at ``path``. Root runs it, so that only root may be able to change it. Raises: UnavailableError, with the remedy."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UnavailableError(f"{path} is no program", hint="give the path of runsc itself")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UnavailableError(f"{path} can be changed by others than root, who runs it", hint=f"chown root {path}; chmod go-w {path}")
        command = [str(path), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False, env={}, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{path} cannot be run: {error}", hint=INSTALL_HINT) from error
    match = _VERSION.search(said.stdout)
    if match is None:
        line = next(iter((said.stdout + said.stderr).strip().splitlines()), "")[:200]
        raise UnavailableError(f"{path} is no runsc: it says {line!r}", hint=INSTALL_HINT)
    version = match[1]
    date = _DATE.search(version)
    if date is None or date[0] < RELEASE:
        raise UnavailableError(f"runsc {version} is older than {RELEASE}, or does not say its date", hint=INSTALL_HINT)
    return Runsc(path=path, version=version)
