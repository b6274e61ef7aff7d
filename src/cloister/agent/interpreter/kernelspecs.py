"""Finds the Jupyter kernels that are installed in the sandbox. Searches whenever a client asks for a language that is not native.

Directories and files belong to the sandbox. They are read with bounds and without blocking; unusable ones are skipped. The kernel's process
and all its messages belong to ``drivers/jupyter/bridge.py``; this module does not import ZeroMQ.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cloister.agent.interpreter.languages import Language, on_our_python

__all__ = ["find_kernelspecs", "kernelspec_directories"]

_MAX_BYTES = 256 << 10
_MAX_ENTRIES = 200
_SYSTEM = ("/usr/local/share/jupyter", "/usr/share/jupyter")
_OPT = Path("/opt")


def kernelspec_directories(envs: Mapping[str, str], path: str, homes: Sequence[str]) -> list[Path]:
    """The directories of kernelspecs, first wins: JUPYTER_PATH, homes, active environments, programs' prefixes, the system, /opt."""
    places = [*envs.get("JUPYTER_PATH", "").split(":")]
    places += [envs[name] for name in ("JUPYTER_DATA_DIR",) if name in envs]
    places += [f"{home}/.local/share/jupyter" for home in homes]
    prefixes = [envs[name] for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if name in envs]
    prefixes += [os.path.dirname(entry.rstrip("/")) for entry in path.split(":") if entry.rstrip("/").endswith("/bin")]  # noqa: PTH120 - text
    places += [f"{prefix}/share/jupyter" for prefix in prefixes]
    places += [*_SYSTEM, *(f"{prefix}/share/jupyter" for prefix in _entries(_OPT))]
    return [Path(place) / "kernels" for place in dict.fromkeys(places) if place.startswith("/")]


def find_kernelspecs(directories: Sequence[Path]) -> list[Language]:
    """A language for each usable kernelspec, by directory and then by name; the first of each name."""
    found: dict[str, Language] = {}
    for place in itertools.chain.from_iterable(map(_entries, directories)):
        name = place.name
        if name.lower() not in found and name.isprintable() and (spoken := _spoken(place / "kernel.json")) is not None:
            found[name.lower()] = _language(name, spoken, place)
    return list(found.values())


def _language(name: str, spoken: str, place: Path) -> Language:
    def command(context: object) -> list[str]:
        return [*on_our_python(context.drivers / "jupyter" / "main.py"), str(place)]  # type: ignore[attr-defined]  # a launch context, typed as object to avoid a cycle

    return Language(name, (spoken.lower(),), command, "bridge", takes_envs=False)


def _entries(directory: Path) -> Iterator[Path]:
    """The entries of a directory, sorted; a bounded number of them."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, _MAX_ENTRIES))
    except OSError:
        return
    yield from (directory / name for name in names)


def _spoken(path: Path) -> str | None:
    """The language of a kernel.json, or None if it is unusable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        text = os.read(fd, _MAX_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
    try:
        data = json.loads(text) if len(text) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("argv"), list):
        return None
    language = data.get("language")
    return language if isinstance(language, str) else ""
