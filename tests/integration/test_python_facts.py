"""A forked Python kernel against one that was started cold, fact by fact; and the streams of both against a plain interpreter's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.driver_root import DRIVERS, DriverRoot, root_layers
from framework.forked_driver import PythonZygote
from framework.waiting import eventually

ARGV = ["/usr/bin/python3", f"{DRIVERS}/python/main.py"]
PROGRAMS = Path(__file__).parents[1] / "framework" / "programs"
FACTS = (PROGRAMS / "python_facts.txt").read_text(encoding="utf-8")
IPYTHON = """
import asyncio, atexit, sys
shell = get_ipython()
for part in [shell, *shell.configurables, *shell.display_formatter.formatters.values()]:
    for name in sorted(part.trait_names()):
        if name not in 'parent config log user_ns user_module shell session_number exec_result last_execution_result'.split():
            tell(f'ipython.{type(part).__name__}.{name}', attempt(lambda: repr(getattr(part, name)).split(' at 0x')[0]))
tell('ipython.config', repr(shell.config))
tell('ipython.magics', {kind: sorted(them) for kind, them in shell.magics_manager.magics.items()})
tell('ipython.events', {name: len(them) for name, them in shell.events.callbacks.items()})
tell('ipython.transformers', [len(shell.input_transformers_cleanup), len(shell.input_transformers_post), len(shell.ast_transformers)])
tell('ipython.names', sorted(shell.user_ns))
tell('ipython.count', shell.execution_count)
tell('asyncio.policy', type(asyncio.get_event_loop_policy()).__name__)
tell('atexit', atexit._ncallbacks())
tell('modules', sorted(name for name in sys.modules if name not in ('json', 'fcntl')))
import decimal, logging, os
tell('ipython.places', [shell.ipython_dir, shell.profile_dir.location, os.path.expanduser('~')])
tell('ipython.history', [len(In), repr(Out)])
tell('logging', [len(logging.root.handlers), logging.root.level])
tell('decimal', repr(decimal.getcontext()))
tell('asyncio.task', asyncio.current_task().get_name())
await asyncio.sleep(0)
print(facts)
"""
FORKED = {
    "status": "readline, which IPython loads, catches SIGWINCH; a forked kernel has no handler that it did not set itself",
    "proc.cmdline": "the zygote's, which cannot be changed without power over its memory map",
    "atexit": "some modules that are imported ahead register a function; those of a cold kernel do when they are imported",
}
"""Permitted differences of a forked kernel, with reasons."""
PLAIN = {
    "stdout.errors": "a lone surrogate, of a file name too, is printed as an escape; it does not end the program",
}
"""Permitted differences of a kernel's streams from those of ``python3 file`` with pipes, with reasons."""


def facts(kernel: Any) -> dict[str, Any]:
    """All that the cell tells."""
    messages = kernel.execute(FACTS) + kernel.execute(IPYTHON)
    assert not [one for one in messages if one["op"] == "error"], messages
    eventually(lambda: bytes(kernel.raw_stdout).endswith(b"}\n"), 10)
    found: dict[str, Any] = ast.literal_eval(bytes(kernel.raw_stdout).decode())
    return found


@pytest.fixture(scope="module")
def root() -> Iterator[DriverRoot]:
    """One root for cold kernels and the plain interpreter."""
    lower = root_layers()
    if not lower:
        pytest.skip("needs the built code-interpreter-v1 template")
    made = DriverRoot(lower)
    yield made
    made.close()


def test_every_fact_of_a_forked_kernel_is_a_cold_ones(root: DriverRoot, python_zygote: PythonZygote) -> None:
    """Streams, interpreter settings, process, signals, limits and IPython's configuration, but for the table of this test."""
    cold, forked = facts(root.start(ARGV)), facts(python_zygote.start(oom_score_adj=0))
    different = {name: (cold.get(name), forked.get(name)) for name in {**cold, **forked} if cold.get(name) != forked.get(name)}
    assert different.keys() == FORKED.keys(), {name: both for name, both in different.items() if name not in FORKED}


def test_the_streams_are_those_of_a_program_with_pipes(root: DriverRoot, python_zygote: PythonZygote) -> None:
    """Encoding, mode, names, buffering, position and descriptors of the standard streams, but for the table of this test."""
    plain = root.spawn(["/usr/bin/python3", "-c", FACTS + "\nprint(facts)"])
    assert plain.wait(30) == 0
    eventually(lambda: bytes(plain.raw_stdout).endswith(b"}\n"), 10)
    expected: dict[str, Any] = ast.literal_eval(bytes(plain.raw_stdout).decode())
    for kernel in (root.start(ARGV), python_zygote.start()):
        found = facts(kernel)
        names = [name for name in expected if name.startswith("std") and found[name] != expected[name]]
        assert names == list(PLAIN), {name: (expected[name], found[name]) for name in names if name not in PLAIN}
