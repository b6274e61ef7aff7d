"""The table of native languages: names, aliases, how each driver is started and interrupted.

A language is one row. Drivers are those of the directory ``drivers`` beside the agent; the programs that run them are the template's,
except bash's driver, which runs on the agent's own interpreter and so needs no Python in the template.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloister.errors import NotFoundError

__all__ = ["LANGUAGES", "Language", "LanguageContext", "find_language", "on_our_python"]

_RT = Path("/.cloister/rt")
_JAVA = "/usr/local/lib/cloister/java"


@dataclass(frozen=True)
class LanguageContext:
    """What a command line may depend on."""

    drivers: Path
    mem_mib: int
    programs: Mapping[str, str] = field(default_factory=dict)
    """Language to the template's program for it, where that is not the usual one."""


@dataclass(frozen=True)
class Language:
    """One language. ``interrupt`` is ``signal`` (SIGINT), ``message`` (and SIGINT to what does not obey), or ``bridge`` (messages only)."""

    name: str
    aliases: tuple[str, ...]
    argv: Callable[[LanguageContext], list[str]]
    interrupt: str = "signal"
    takes_envs: bool = True
    """Whether a run can have variables of its own."""


def _python(context: LanguageContext) -> list[str]:
    return [context.programs.get("python", "/usr/bin/python3"), str(context.drivers / "python.py")]


def _node(context: LanguageContext) -> list[str]:
    return [context.programs.get("javascript", "/usr/bin/node"), str(context.drivers / "node" / "main.js")]


def _r(context: LanguageContext) -> list[str]:
    return [context.programs.get("r", "/usr/bin/Rscript"), str(context.drivers / "kernel.R")]


def _java(context: LanguageContext) -> list[str]:
    heap_mib = max(64, context.mem_mib // 2)
    archive = f"{_JAVA}/kernel.jsa"  # made with the serial collector: with another one the JVM does not take it
    options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", f"-XX:SharedArchiveFile={archive}", f"-Xmx{heap_mib}m"]
    # Half the memory of an idle kernel; a smaller first heap would be collected whole five times while the compiler loads.
    lean = ["-Xms16m", "-XX:NewSize=6m", "-XX:MetaspaceSize=64m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=30"]
    return [context.programs.get("java", "/usr/bin/java"), *options, *lean, "-jar", f"{_JAVA}/kernel.jar"]


def on_our_python(script: Path) -> list[str]:
    """The command line of a driver that runs on the agent's own interpreter."""
    if not _RT.exists():
        return [sys.executable, "-I", "-S", str(script)]
    loader = [f"{_RT}/lib64/ld-linux-x86-64.so.2", "--argv0", f"{_RT}/bin/python3.13", "--library-path", f"{_RT}/lib/x86_64-linux-gnu"]
    return [*loader, f"{_RT}/bin/python3.13", "-I", "-S", str(script)]


def _bash(context: LanguageContext) -> list[str]:
    return on_our_python(context.drivers / "bash.py")


LANGUAGES = (
    Language("python", ("py", "python3"), _python),
    Language("javascript", ("js", "node"), _node, "message"),
    Language("typescript", ("ts",), _node, "message"),
    Language("r", (), _r),
    Language("java", (), _java, "message"),
    Language("bash", ("sh", "shell"), _bash),
)


def find_language(name: str, available: Iterable[str], others: Callable[[], Sequence[Language]] = tuple) -> Language:
    """The language that ``name`` or an alias of it names, in any case: among ``available`` ones first, then among ``others``.

    Raises: NotFoundError, which lists them all, and says what Python needs.
    """
    wanted = name.strip().lower()
    names = tuple(available)
    for language in LANGUAGES:
        if wanted in (language.name, *language.aliases) and language.name in names:
            return language
    found = others()
    for belongs in (lambda language: wanted == language.name.lower(), lambda language: wanted in language.aliases):
        for language in found:
            if belongs(language):
                return language
    native = {alias for language in LANGUAGES if language.name in names for alias in (language.name, *language.aliases)}
    known = [*names, *sorted({language.name for language in found if language.name.lower() not in native})]
    available_ones = f"Available: {', '.join(known) or 'none'}"
    raise NotFoundError(f"The language '{name[:80]}' is not available in this sandbox. {available_ones}{_remedy(wanted)}")


def _remedy(wanted: str) -> str:
    """What to add to the template for Python, which run_code uses when it is told nothing else."""
    if wanted not in ("python", *LANGUAGES[0].aliases):
        return ""
    has_python = any(Path(directory, "python3").exists() for directory in ("/usr/bin", "/usr/local/bin"))
    install = "IPython to the template (for example: RUN pip install ipython)" if has_python else "python3 and IPython to the template"
    return f". For Python, add {install} and build it again"
