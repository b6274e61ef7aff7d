"""Languages for the agent: the command line of each driver, and the language that a client's name means.

The native languages are the rows of protocol/languages.py. Drivers are in the directory ``drivers`` beside the agent. The template's
programs run them; a row without a program runs on the agent's own Python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cloister.errors import NotFoundError
from cloister.protocol.languages import NATIVE_LANGUAGES, NativeLanguage, native_language

__all__ = ["LANGUAGES", "Language", "LanguageContext", "find_language", "on_our_python"]

_RT = Path("/.cloister/rt")


@dataclass(frozen=True)
class LanguageContext:
    """The facts that a driver's command line may depend on."""

    drivers: Path
    mem_mib: int
    programs: Mapping[str, str] = field(default_factory=dict)
    """Language to the template's program, for languages whose program is not the usual one."""


@dataclass(frozen=True)
class Language:
    """One language. ``interrupt`` is that of :class:`NativeLanguage`, or ``bridge``: messages only, the driver sends the signals."""

    name: str
    aliases: tuple[str, ...]
    argv: Callable[[LanguageContext], list[str]]
    interrupt: str = "signal"
    takes_envs: bool = True
    """Whether a run can have its own variables."""
    renews: bool = False
    """As that of :class:`NativeLanguage`."""
    warm_up: str = ""
    """As that of :class:`NativeLanguage`."""


def on_our_python(script: Path) -> list[str]:
    """The command line of a driver that runs on the agent's own interpreter."""
    if not _RT.exists():
        return [sys.executable, "-I", "-S", str(script)]
    loader = [f"{_RT}/lib64/ld-linux-x86-64.so.2", "--argv0", f"{_RT}/bin/python3.13", "--library-path", f"{_RT}/lib/x86_64-linux-gnu"]
    return [*loader, f"{_RT}/bin/python3.13", "-I", "-S", str(script)]


def _command(row: NativeLanguage, context: LanguageContext) -> list[str]:
    driver = str(context.drivers / row.driver)  # an absolute path stays as it is
    if not row.program:
        return on_our_python(Path(driver))
    program = context.programs.get(row.program_of or row.name, row.program)
    half_mem_mib = max(64, context.mem_mib // 2)
    return [program, *(option.format(half_mem_mib=half_mem_mib) for option in row.options), driver]


LANGUAGES = tuple(
    Language(row.name, row.aliases, partial(_command, row), row.interrupt, renews=row.renews, warm_up=row.warm_up)
    for row in NATIVE_LANGUAGES
)
"""The native ones."""


def find_language(name: str, available: Iterable[str], others: Callable[[], Sequence[Language]] = tuple) -> Language:
    """The language of that name or alias, in any case: among ``available`` ones first, then among ``others``.

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
    """The remedy for a template without Python, the language of run_code by default."""
    if wanted not in ("python", *native_language("python").aliases):
        return ""
    has_python = any(Path(directory, "python3").exists() for directory in ("/usr/bin", "/usr/local/bin"))
    install = "IPython to the template (for example: RUN pip install ipython)" if has_python else "python3 and IPython to the template"
    return f". For Python, add {install} and build it again"
