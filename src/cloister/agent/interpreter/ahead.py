"""Kernels that are started before a client wants them, for the first contexts of their languages.

The server asks for them in a sandbox that it saves as an image (``POST /kernels``), so that no sandbox that begins from the image starts
one. No code of a client has run in them: clients see no difference, except in the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cloister.agent.interpreter.kernel import Kernel
from cloister.agent.interpreter.languages import Language

__all__ = ["KernelsAhead"]


class KernelsAhead:
    """Of one sandbox: at most one for each language and directory."""

    def __init__(self, start: Callable[[Language, str], Kernel]) -> None:
        self._start = start
        self._kernels: dict[tuple[str, str], Kernel] = {}

    async def add(self, languages: Iterable[Language], cwd: str) -> None:
        """Start those that are missing, and wait until they are ready. Raises: as ``start``, UnavailableError; others are kept then."""
        for language in languages:
            if (language.name, cwd) not in self._kernels:
                await self._add(language, cwd)

    async def _add(self, language: Language, cwd: str) -> None:
        kernel = self._start(language, cwd)
        try:
            await kernel.wait_ready()
            if language.warm_up:
                await kernel.warm_up(language.warm_up)
        except BaseException:
            await kernel.close()
            raise
        self._kernels[language.name, cwd] = kernel

    def take(self, language: Language, cwd: str) -> Kernel | None:
        """The kernel for a new context, which owns it then; None if there is none that lives."""
        kernel = self._kernels.get((language.name, cwd))
        return self._kernels.pop((language.name, cwd)) if kernel is not None and kernel.is_alive else None

    def renew(self) -> None:
        """Renew their random generators."""
        for kernel in self._kernels.values():
            if kernel.is_alive:
                kernel.renew()

    async def close(self) -> None:
        """End them."""
        kernels, self._kernels = list(self._kernels.values()), {}
        await asyncio.gather(*(kernel.close() for kernel in kernels))
