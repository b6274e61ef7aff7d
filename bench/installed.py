"""Environments of the peers below a cache directory, and two Debian packages. Created on first use, separate from our own.

A peer that cannot be installed raises :class:`MissingError` with the cause, which becomes the peer's row.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

LISTS = Path(__file__).parent / "environments"
_INSTALL_LIMIT_S = 300


class MissingError(Exception):
    """A peer cannot run here; the message gives the reason."""


def default_cache() -> Path:
    """The directory of the peers' environments."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloister-bench"


def _checked(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_INSTALL_LIMIT_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(str(error)) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise MissingError(f"{' '.join(argv[:4])} …: {said[-1] if said else done.returncode}")


class PeerHome:
    """The cache directory. With ``may_install`` False it only uses existing environments."""

    def __init__(self, cache: Path, *, may_install: bool = True) -> None:
        self._cache = cache
        self._may_install = may_install

    def environment(self, name: str) -> Path:
        """The ``bin`` of the environment with the packages of ``environments/<name>.txt``. Raises: MissingError."""
        wanted = (LISTS / f"{name}.txt").read_text()
        directory = self._cache / name
        stamp = directory / "installed.txt"
        if not stamp.exists() or stamp.read_text() != wanted:
            if not self._may_install:
                raise MissingError(f"{directory} is not there, and --no-install was given")
            print(f"         installing {' '.join(wanted.split())} into {directory}", flush=True)
            shutil.rmtree(directory, ignore_errors=True)
            _checked([sys.executable, "-m", "venv", str(directory)])
            pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _checked([*pip, "-r", str(LISTS / f"{name}.txt")])
            stamp.write_text(wanted)
        return directory / "bin"

    def program(self, name: str, package: str) -> str:
        """The path of a system program, installed by apt if it is missing. Raises: MissingError."""
        found = shutil.which(name)
        if found:
            return found
        if not self._may_install:
            raise MissingError(f"{name} is not installed, and --no-install was given")
        print(f"         apt-get install {package}", flush=True)
        _checked(["apt-get", "-q", "-y", "--no-install-recommends", "install", package])
        found = shutil.which(name)
        if not found:
            raise MissingError(f"the package {package} has no {name}")
        return found
