"""Contexts whose kernels are the fake driver, with cgroup files of the test's own."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloister.agent.accounts import find_account
from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.contexts import Context, Contexts, Run
from cloister.agent.interpreter.driver_kernel import DriverKernel, KernelSettings
from cloister.agent.interpreter.kernel import Display, Failure, Finished, Kernel, KernelEvent, Output
from cloister.agent.interpreter.languages import Language
from cloister.agent.interpreter.process import LaunchSpec, StartedProcess
from cloister.protocol.execution import ExecuteRequest

FAKE_DRIVER = Path(__file__).with_name("fake_driver.py")


@dataclass
class Outcome:
    """All events of a run, sorted by kind."""

    events: list[KernelEvent] = field(default_factory=list)

    @property
    def stdout(self) -> str:
        """All of stdout."""
        return "".join(event.text for event in self.events if isinstance(event, Output) and event.stream == "stdout")

    @property
    def stderr(self) -> str:
        """All of stderr."""
        return "".join(event.text for event in self.events if isinstance(event, Output) and event.stream == "stderr")

    @property
    def error(self) -> Failure | None:
        """The first error."""
        return next((event for event in self.events if isinstance(event, Failure)), None)

    @property
    def text(self) -> str | None:
        """The main result's text."""
        return next((event.data["text/plain"] for event in self.events if isinstance(event, Display) and event.main), None)

    @property
    def count(self) -> int | None:
        """The execution counter; None when the kernel died."""
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last.count


@dataclass
class Interpreter:
    """Contexts and how to run code in them."""

    contexts: Contexts
    cgroup: Path
    arguments: list[str]

    def context(self) -> Context:
        """The default context."""
        return self.contexts.default()

    def submit(self, code: str, context: Context | None = None, **envs: str) -> Run:
        """Queue a run."""
        return (context or self.context()).submit(ExecuteRequest(code, envs=envs))

    async def run(self, code: str, context: Context | None = None, **envs: str) -> Outcome:
        """Run code to its end."""
        return await collect(self.submit(code, context, **envs))


async def collect(run: Run) -> Outcome:
    """Pull a run to its end."""
    outcome = Outcome()
    while not (outcome.events and isinstance(outcome.events[-1], Finished)):
        outcome.events += await run.next_events()
    return outcome


@pytest.fixture
async def make_interpreter(tmp_path: Path) -> AsyncIterator[Callable[..., Interpreter]]:
    """Make interpreters; keyword ``max_output_bytes`` bounds their output. All kernels end with the test."""
    made: list[Interpreter] = []
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.events").write_text("oom_kill 0\n", encoding="ascii")

    def make(max_output_bytes: int = 64 << 20) -> Interpreter:
        settings = KernelSettings(language="python", interrupt="signal", max_output_bytes=max_output_bytes, mem_limit_mib=512, renews=True)
        arguments: list[str] = []

        def start(language: Language, cwd: str) -> Kernel:
            argv = [sys.executable, "-I", "-S", str(FAKE_DRIVER), *arguments]
            account = find_account(pwd.getpwuid(os.getuid()).pw_name)
            spec = LaunchSpec(argv=argv, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, cwd=cwd, account=account)
            return DriverKernel(StartedProcess(spec), settings, Cgroup(cgroup), {})

        contexts = Contexts(("python", "javascript"), str(tmp_path), start, lambda _kernel: {})
        made.append(Interpreter(contexts, cgroup, arguments))
        return made[-1]

    yield make
    for interpreter in made:
        await interpreter.contexts.close()


@pytest.fixture
def interpreter(make_interpreter: Callable[..., Interpreter]) -> Interpreter:
    """One interpreter with default bounds."""
    return make_interpreter()
