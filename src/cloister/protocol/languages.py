"""The table of native languages: everything that agent and server know about a language. A language is one row here and one driver.

docs/howto/add-a-language.md says how to add one. Other languages are those of Jupyter kernels, which the agent finds in the sandbox
(agent/interpreter/kernelspecs.py).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NATIVE_LANGUAGES", "NativeLanguage", "native_language"]


@dataclass(frozen=True, kw_only=True)
class NativeLanguage:
    """One language. The driver's command line is: program, options, driver."""

    name: str
    aliases: tuple[str, ...] = ()
    """Other names that clients may use, in lower case."""
    extensions: tuple[str, ...] = ()
    """Endings of the files that ``cloister run`` takes for this language, in lower case."""
    program: str = ""
    """The usual path of the program that runs the driver, in the template. Empty: the driver runs on the agent's own Python."""
    options: tuple[str, ...] = ()
    """Arguments of the program before the driver. ``{half_mem_mib}`` is half of the sandbox's memory, at least 64 MiB."""
    driver: str
    """The driver's file: absolute if the template has it, else relative to ``drivers/``."""
    needs: str = ""
    """A file of the template that the driver cannot run without, beside its program."""
    program_of: str = ""
    """The language whose program this one uses, if it has none of its own; it is available exactly when that one is."""
    interrupt: str = "signal"
    """How a run is interrupted: ``signal`` (SIGINT), or ``message`` (and SIGINT to children that do not end)."""
    renews: bool = False
    """Whether the driver knows the message ``renew``."""
    warm_up: str = ""
    """A cell that leaves nothing behind, for a kernel that is started ahead: its first cell alone would load much code. Empty: none."""


_NATIVE_JAVA = "/usr/local/lib/cloister/java"
_JAVA_OPTIONS = (
    # The class archive was made with the serial collector; a JVM with another collector does not use it.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    f"-XX:SharedArchiveFile={_NATIVE_JAVA}/kernel.jsa",
    "-Xmx{half_mem_mib}m",
    # These halve the memory of an idle kernel. A smaller first heap would be collected five times while the compiler loads.
    "-Xms16m",
    "-XX:NewSize=6m",
    "-XX:MetaspaceSize=64m",
    "-XX:MinHeapFreeRatio=10",
    "-XX:MaxHeapFreeRatio=30",
    "-jar",
)

NATIVE_LANGUAGES = (
    NativeLanguage(
        name="python", aliases=("py", "python3"), extensions=(".py",), program="/usr/bin/python3", driver="python/main.py", renews=True
    ),
    NativeLanguage(
        name="javascript",
        aliases=("js", "node"),
        extensions=(".js", ".mjs", ".cjs"),
        program="/usr/bin/node",
        driver="node/main.js",
        interrupt="message",
        renews=True,
    ),
    NativeLanguage(
        name="typescript",
        aliases=("ts",),
        extensions=(".ts", ".mts"),
        program="/usr/bin/node",
        program_of="javascript",
        driver="node/main.js",
        interrupt="message",
        renews=True,
    ),
    NativeLanguage(
        name="r",
        extensions=(".r",),
        program="/usr/bin/Rscript",
        driver="r/main.R",
        needs="/usr/local/lib/cloister/r/kernel.so",
        renews=True,
    ),
    NativeLanguage(
        name="java",
        extensions=(".java",),
        program="/usr/bin/java",
        options=_JAVA_OPTIONS,
        driver=f"{_NATIVE_JAVA}/kernel.jar",
        needs=f"{_NATIVE_JAVA}/kernel.jar",
        interrupt="message",
        warm_up="{ int one = 1; System.out.print(one); }",
    ),
    NativeLanguage(
        name="bash",
        aliases=("sh", "shell"),
        extensions=(".sh", ".bash"),
        driver="bash/main.py",
        needs="/bin/bash",
        renews=True,
    ),
)
"""In the order in which clients are told of them."""


def native_language(name: str) -> NativeLanguage:
    """The row of that name. Raises: KeyError."""
    return {language.name: language for language in NATIVE_LANGUAGES}[name]
