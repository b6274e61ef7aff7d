"""The build operation ``inspect``: finds the languages of this template, and the programs that run them.

    {"path", "envs", "user", "workdir", "kernel_user", "mem_mib"}  ->  {"languages": [[name, program], …], "missing": {name: why}}

A language is available if its driver becomes ready with the template's program, started as in a sandbox, with the same environment. Of
several programs the first one that works is taken, in a shell's order. The time of the programs is bounded, and they end with this build
sandbox.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path, PurePath
from typing import Any

from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.languages import LANGUAGES, Language
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.state import AgentState
from cloister.errors import CloisterError, UnavailableError
from cloister.protocol.agent import DEFAULT_PATH
from cloister.protocol.init_document import AgentLimits, InitDocument
from cloister.protocol.languages import NativeLanguage, native_language

__all__ = ["run"]

_DRIVERS = Path("/.cloister/agent/drivers")
_CGROUP = Path("/.cloister/cgroup")
_MOST_PROGRAMS = 4
_READY_S = 60.0
_ALL_READY_S = 120.0
"""Bound for all tries together; later ones have a second each."""


def run(params: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    return asyncio.run(_inspect(params))


async def _inspect(params: dict[str, Any], drivers: Path = _DRIVERS) -> dict[str, Any]:
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    deadline = time.monotonic() + _ALL_READY_S
    for language in LANGUAGES:
        row = native_language(language.name)
        if row.program_of:
            if row.program_of in found:
                found[row.name] = found[row.program_of]
            continue
        if row.needs and not Path(row.needs).exists():
            continue
        for program in _candidates(row, params.get("path") or DEFAULT_PATH):
            why = await _try(language, program, params, drivers, min(_READY_S, max(1.0, deadline - time.monotonic())))
            if not why:
                found[language.name] = program
                missing.pop(language.name, None)
                break
            missing.setdefault(language.name, why)
    return {"languages": [[name, program] for name, program in found.items()], "missing": missing}


def _candidates(row: NativeLanguage, path: str) -> list[str]:
    """The programs to try, in a shell's order; ``""`` for a language that needs no program of the template."""
    if not row.program:
        return [""]
    name = PurePath(row.program).name
    directories = [directory.rstrip("/") for directory in (*path.split(":"), "/usr/local/bin", "/usr/bin") if directory.startswith("/")]
    places = {os.path.realpath(directory): f"{directory}/{name}" for directory in reversed(directories)}  # /bin is /usr/bin on most systems
    return [place for place in reversed(places.values()) if os.path.isfile(place) and os.access(place, os.X_OK)][:_MOST_PROGRAMS]


async def _try(language: Language, program: str, params: dict[str, Any], drivers: Path, timeout_s: float) -> str:
    """Why the language's driver does not become ready; empty if it does."""
    document = InitDocument(
        sandbox_id="inspect",
        envs=params.get("envs") or {},
        user=params.get("user") or "root",
        workdir=params.get("workdir") or "/",
        kernel_user=params.get("kernel_user") or "root",
        programs={language.name: program} if program else {},
        limits=AgentLimits(mem_mib=params.get("mem_mib") or AgentLimits.mem_mib),
    )
    launcher = KernelLauncher(AgentState.from_document(document), drivers, Cgroup(_CGROUP))
    cwd = document.workdir if os.path.isdir(document.workdir) else "/"
    try:
        kernel = launcher.start(language, cwd)
    except CloisterError as error:
        return str(error)
    try:
        async with asyncio.timeout(timeout_s):
            await kernel.wait_ready()
    except (UnavailableError, TimeoutError) as error:
        return str(error) or f"it was not ready after {timeout_s:.0f} s"
    finally:
        await kernel.close()
    return ""
