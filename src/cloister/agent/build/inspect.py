"""The build operation ``inspect``: which languages the interpreter would have in this template, and by which programs.

    {"path", "envs", "user", "workdir", "kernel_user", "mem_mib"}  ->  {"languages": [[name, program], …], "missing": {name: why}}

A language is there when its driver becomes ready with the template's program: the same way, with the same environment, as a kernel in
a sandbox is started. Of several programs the first that works is taken, in the order in which a shell would find them. Whatever the
programs do is bounded in time, and ends with the build sandbox that this runs in.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from cloister.agent.cgroup import Cgroup
from cloister.agent.init import AgentLimits, InitDocument, SandboxState
from cloister.agent.interpreter.languages import LANGUAGES, Language
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.process.environment import DEFAULT_PATH
from cloister.errors import CloisterError, UnavailableError

__all__ = ["run"]

_DRIVERS = Path("/.cloister/agent/drivers")
_CGROUP = Path("/.cloister/cgroup")
_PROGRAMS = {"python": "python3", "javascript": "node", "r": "Rscript", "java": "java"}
_FILES = {"java": "/usr/local/lib/cloister/java/kernel.jar", "r": "/usr/local/lib/cloister/r/kernel.so", "bash": "/bin/bash"}
"""Parts that a language needs beside its program: without them it is not tried."""
_FOLLOWS = {"typescript": "javascript"}
"""Has the program of another language, and is there when that is."""
_MOST_PROGRAMS = 4
_READY_S = 60.0
_ALL_READY_S = 120.0
"""For all that is tried together: what is tried later has a second."""


def run(params: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    return asyncio.run(_inspect(params))


async def _inspect(params: dict[str, Any], drivers: Path = _DRIVERS) -> dict[str, Any]:
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    deadline = time.monotonic() + _ALL_READY_S
    for language in LANGUAGES:
        leader = _FOLLOWS.get(language.name)
        if leader is not None:
            if leader in found:
                found[language.name] = found[leader]
            continue
        if language.name in _FILES and not Path(_FILES[language.name]).exists():
            continue
        for program in _candidates(language, params.get("path") or DEFAULT_PATH):
            why = await _try(language, program, params, drivers, min(_READY_S, max(1.0, deadline - time.monotonic())))
            if not why:
                found[language.name] = program
                missing.pop(language.name, None)
                break
            missing.setdefault(language.name, why)
    return {"languages": [[name, program] for name, program in found.items()], "missing": missing}


def _candidates(language: Language, path: str) -> list[str]:
    """The programs to try, in a shell's order; ``""`` for a language that needs none of the template."""
    name = _PROGRAMS.get(language.name)
    if name is None:
        return [""]
    directories = [directory.rstrip("/") for directory in (*path.split(":"), "/usr/local/bin", "/usr/bin") if directory.startswith("/")]
    places = {os.path.realpath(directory): f"{directory}/{name}" for directory in reversed(directories)}  # /bin is /usr/bin, mostly
    return [place for place in reversed(places.values()) if os.path.isfile(place) and os.access(place, os.X_OK)][:_MOST_PROGRAMS]


async def _try(language: Language, program: str, params: dict[str, Any], drivers: Path, timeout_s: float) -> str:
    """Why the language's driver does not become ready; empty: it does."""
    document = InitDocument(
        sandbox_id="inspect",
        envs=params.get("envs") or {},
        user=params.get("user") or "root",
        workdir=params.get("workdir") or "/",
        kernel_user=params.get("kernel_user") or "root",
        programs={language.name: program} if program else {},
        limits=AgentLimits(mem_mib=params.get("mem_mib") or AgentLimits.mem_mib),
    )
    launcher = KernelLauncher(SandboxState.from_document(document), drivers, Cgroup(_CGROUP))
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
