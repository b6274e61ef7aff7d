"""Kernels that were forked for the agent: taking them over, and that they are as good as started ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.agent.accounts import find_account
from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter import launch
from cloister.agent.interpreter.adopted import adopt
from cloister.agent.interpreter.contexts import Contexts
from cloister.agent.interpreter.kernel import Kernel
from cloister.agent.interpreter.languages import Language, LanguageContext
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.interpreter.process import LaunchSpec
from cloister.agent.orphans import Orphans
from cloister.agent.state import AgentState
from cloister.errors import UnavailableError
from cloister.protocol.init_document import InitDocument
from framework.fake_birth import FakeNursery
from framework.fake_interpreter import FAKE_DRIVER, Interpreter
from framework.waiting import eventually_async


class Agent(Interpreter):
    """The part of an agent that has kernels; its default one is expected."""

    launcher: KernelLauncher
    orphans: Orphans

    def expect(self, channel: socket.socket) -> None:
        """The default kernel is at the other end of the channel."""
        context = self.context()
        context.expect(self.launcher.adopt(channel, self.orphans, self.language, context.cwd))

    async def kernel(self) -> Kernel:
        """The default kernel."""
        return await self.context().running_kernel()

    @property
    def language(self) -> Language:
        """The fake one, named python."""

        def argv(_context: LanguageContext) -> list[str]:
            return [sys.executable, "-I", "-S", str(FAKE_DRIVER)]

        return Language("python", (), argv)


@pytest.fixture
async def agent(tmp_path: Path, nursery: FakeNursery) -> AsyncIterator[Agent]:
    """One agent; ``nursery`` plays pid 1."""
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.events").write_text("oom_kill 0\n", encoding="ascii")
    user = pwd.getpwuid(os.getuid()).pw_name
    document = InitDocument(
        sandbox_id="s", template_id="t", workdir=str(tmp_path), kernel_user=user, envs={"A": "1"}, languages=("python",)
    )
    launcher = KernelLauncher(AgentState.from_document(document), tmp_path, Cgroup(cgroup))
    contexts = Contexts(document.languages, document.workdir, lambda _language, cwd: launcher.start(made.language, cwd), launcher.envs_for)
    made = Agent(contexts, cgroup, [])
    made.launcher, made.orphans = launcher, Orphans(nursery.orphans)
    made.orphans.listen()
    yield made
    await contexts.close()
    asyncio.get_running_loop().remove_reader(nursery.orphans)


PID = "import os; result(str(os.getpid()))"


async def test_the_forked_kernel_is_the_default_one(agent: Agent, nursery: FakeNursery, tmp_path: Path) -> None:
    """Runs go to it, with the identity, directory and variables of a started kernel, and it is given its OOM score to take."""
    agent.expect(nursery.fork())
    assert (await agent.run(PID)).text == str(nursery.pids[0])
    told = json.loads((await agent.run("import adopted, json; result(json.dumps(adopted.ADOPTED))")).text or "")
    assert told["op"] == "adopt"
    assert told["cwd"] == str(tmp_path)
    assert (told["uid"], told["gid"], told["groups"]) == (os.getuid(), os.getgid(), os.getgroups())
    assert told["oom_score_adj"] == 600
    assert told["env"]["A"] == "1"
    assert told["env"]["E2B_SANDBOX_ID"] == "s"
    assert told["env"]["PATH"]
    started = agent.launcher.start(agent.language, str(tmp_path))
    agent.contexts.default("python")._kernel, adopted = started, agent.contexts.default("python")._kernel
    environment = json.loads((await agent.run("import json, os; result(json.dumps(dict(os.environ)))")).text or "")
    agent.contexts.default("python")._kernel = adopted
    await started.close()
    environment.pop("CLOISTER_KERNEL_FD")
    assert {name: value for name, value in environment.items() if name != "LC_CTYPE"} == told["env"]


async def test_another_user_is_told_with_all_groups(agent: Agent, nursery: FakeNursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's user is resolved by the agent: uid, gid, every group."""
    account = replace(find_account("root"), name="other", uid=4242, gid=4243, groups=(7, 4243), home="/home/other")
    monkeypatch.setattr(launch, "find_account", lambda _name: account)
    agent.expect(nursery.fork())
    told = json.loads((await agent.run("import adopted, json; result(json.dumps(adopted.ADOPTED))")).text or "")
    assert (told["uid"], told["gid"], told["groups"], told["env"]["HOME"]) == (4242, 4243, [7, 4243], "/home/other")


async def test_output_of_a_forked_kernel(agent: Agent, nursery: FakeNursery) -> None:
    """Its descriptors 1 and 2 are the agent's pipes."""
    agent.expect(nursery.fork())
    outcome = await agent.run("out('a\\n'); err('b\\n'); os = __import__('os'); os.system('echo c')")
    assert (outcome.stdout, outcome.stderr) == ("a\nc\n", "b\n")


async def test_a_large_environment_reaches_a_forked_kernel(agent: Agent, nursery: FakeNursery) -> None:
    """One that does not fit into the socket at once."""
    agent.launcher.state.envs["BIG"] = "x" * (3 << 20)
    agent.expect(nursery.fork())
    outcome = await agent.run("import adopted, os; result(f\"{len(adopted.ADOPTED['env']['BIG'])} {os.getpid()}\")")
    assert outcome.text == f"{3 << 20} {nursery.pids[0]}"


@pytest.mark.parametrize(
    ("code", "note", "facts"),
    [
        ("import os; os._exit(3)", "The kernel ended with exit code 3", {"cause": "exit", "exit_code": 3}),
        ("import os; os.abort()", "The kernel was ended by signal 6 (SIGABRT)", {"cause": "signal", "signal": 6}),
    ],
)
async def test_death_of_a_forked_kernel_is_explained(
    agent: Agent, nursery: FakeNursery, code: str, note: str, facts: dict[str, Any]
) -> None:
    """How it ended is known though it was no child of the agent; the next run has a new kernel."""
    agent.expect(nursery.fork())
    await agent.run("x = 5")
    kernel = await agent.kernel()
    outcome = await agent.run(code)
    assert outcome.error is not None
    assert note in outcome.error.value
    assert (kernel.death_note, kernel.death_facts, kernel.is_alive) == (note, facts, False)
    assert (await agent.run(PID)).text not in (None, str(nursery.pids[0]))


async def test_out_of_memory_of_a_forked_kernel(agent: Agent, nursery: FakeNursery) -> None:
    """SIGKILL with a count of the control group is told as such."""
    agent.expect(nursery.fork())
    events = agent.cgroup / "memory.events"
    kill = f"open({str(events)!r}, 'w').write('oom_kill 1\\n'); import os; os.kill(os.getpid(), 9)"
    outcome = await agent.run(kill)
    assert outcome.error is not None
    assert "ran out of memory" in outcome.error.value


async def test_death_of_a_forked_kernel_between_runs(agent: Agent, nursery: FakeNursery) -> None:
    """The next run is told, with the signal, and has a new kernel."""
    agent.expect(nursery.fork())
    await agent.run("x = 5")
    kernel = await agent.kernel()
    os.kill(nursery.pids[0], signal.SIGKILL)
    await eventually_async(lambda: not kernel.is_alive and "signal 9" in kernel.death_note)
    outcome = await agent.run("result(str(globals().get('x')))")
    assert outcome.text == "None"
    assert "signal 9 (SIGKILL)" in outcome.stderr


async def test_an_end_that_nobody_tells(agent: Agent, nursery: FakeNursery) -> None:
    """The kernel is dead all the same, and no cause is invented."""
    nursery.tells = False
    agent.expect(nursery.fork())
    kernel = await agent.kernel()
    outcome = await agent.run("import os; os._exit(3)")
    assert outcome.error is not None
    assert outcome.error.value.startswith("The kernel ended. Its state is lost")
    assert kernel.death_facts == {"cause": "unknown"}


async def test_interrupts_reach_a_forked_kernel_and_its_children(agent: Agent, nursery: FakeNursery) -> None:
    """State is kept; a child that waits is interrupted too."""
    agent.expect(nursery.fork())
    await agent.run("y = 7")
    run = agent.submit("import subprocess, signal; signal.signal(signal.SIGINT, lambda *_: None); subprocess.call(['/bin/sleep', '30'])")
    pulling = asyncio.create_task(run.next_events())
    await asyncio.sleep(0.3)
    pulling.cancel()
    began = time.monotonic()
    run.abandon()
    assert (await agent.run("result(str(y))")).text == "7"
    assert time.monotonic() - began < 15


async def test_closing_ends_the_forked_kernel_with_its_children(agent: Agent, nursery: FakeNursery) -> None:
    """Nothing of its tree is left, also what left the session."""
    agent.expect(nursery.fork())
    outcome = await agent.run("import subprocess; result(str(subprocess.Popen(['/usr/bin/setsid', '/bin/sleep', '60']).pid))")
    child = int(outcome.text or "0")
    await agent.contexts.delete(agent.context().context_id)
    for pid in (nursery.pids[0], child):
        for _ in range(100):
            state = Path(f"/proc/{pid}/stat")
            with contextlib.suppress(FileNotFoundError):
                if state.read_text(encoding="ascii").split(") ")[1][0] != "Z":
                    await asyncio.sleep(0.02)
                    continue
            break
        else:
            pytest.fail(f"{pid} lives")


async def test_cost_of_a_forked_kernel(agent: Agent, nursery: FakeNursery) -> None:
    """Processor time and peak memory are the kernel's."""
    agent.expect(nursery.fork())
    big = await agent.run("b = bytearray(60 << 20)\nfor i in range(10_000_000): pass\ndel b")
    small = await agent.run("0")
    costs = [getattr(outcome.events[-1], "cost") for outcome in (big, small)]  # noqa: B009 - Finished is the last
    assert costs[0].cpu_ms >= 50
    assert costs[0].peak_mem_bytes > 60 << 20
    assert costs[1].cpu_ms < costs[0].cpu_ms
    assert costs[1].peak_mem_bytes < 60 << 20


@pytest.mark.parametrize("fault", ["--gone", "--short", "--unfit"])
async def test_a_kernel_that_is_not_born_is_started(agent: Agent, nursery: FakeNursery, fault: str) -> None:
    """Wherever the forked one ends before it is ready, the first run has a started one and is told nothing."""
    agent.expect(nursery.fork(fault))
    outcome = await agent.run(PID)
    assert outcome.text not in (None, str(nursery.pids[0]))
    assert (outcome.stderr, outcome.error) == ("", None)


async def test_a_kernel_that_says_nothing_is_not_waited_for(nursery: FakeNursery, agent: Agent, tmp_path: Path) -> None:
    """There is a bound, after which the socket is closed."""
    channel = nursery.fork("--silent")
    spec = LaunchSpec(argv=[], env={}, cwd=str(tmp_path), account=find_account("root"))
    with pytest.raises(UnavailableError):
        await adopt(channel, spec, agent.orphans, hello_s=0.2)
    assert channel.fileno() == -1


async def test_deleting_the_context_ends_the_waiting(agent: Agent, nursery: FakeNursery) -> None:
    """A context that goes while its kernel is not born closes the socket."""
    channel = nursery.fork("--silent")
    agent.expect(channel)
    await asyncio.sleep(0.05)
    await agent.contexts.delete(agent.context().context_id)
    assert channel.fileno() == -1


async def test_a_byte_without_a_pid_is_no_hello(agent: Agent, tmp_path: Path) -> None:
    """Only the kernel's word says whose it is: without credentials, or with pid 1's, nothing is adopted."""
    spec = LaunchSpec(argv=[], env={}, cwd=str(tmp_path), account=find_account("root"))
    for message, passing in ((b"B", 0), (b"X", 1), (b"B", 1)):  # the last one has our own pid
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, passing)
        theirs.send(message)
        with pytest.raises(UnavailableError):
            await adopt(ours, spec, agent.orphans)
        theirs.close()


async def test_orphans_are_read_in_a_flood(nursery: FakeNursery) -> None:
    """The pipe never fills up; a status is found among hundreds of thousands, and one from before the watch is not taken."""
    orphans = Orphans(nursery.orphans)
    nursery.say(4711, 9)
    orphans.watch(4711)
    orphans.listen()
    block = b"".join(struct.pack("=ii", pid, 4711) for pid in range(1, 4001))
    began = time.process_time()
    for _ in range(100):
        assert os.write(nursery._tell, block) == len(block)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    spent_s = time.process_time() - began
    assert orphans.status(4711, 0.01) is None
    nursery.say(4711, 3 << 8)
    assert orphans.status(4711, 1) == 3 << 8
    assert spent_s < 1
    asyncio.get_running_loop().remove_reader(nursery.orphans)
