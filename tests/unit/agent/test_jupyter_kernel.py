"""A Jupyter kernel behind the bridge: what a run gives, whatever order, shape or size the kernel's messages have."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import cloister
from cloister.agent.accounts import find_account
from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.contexts import Contexts
from cloister.agent.interpreter.driver_kernel import DriverKernel, KernelSettings
from cloister.agent.interpreter.kernel import Display, Finished, Kernel
from cloister.agent.interpreter.languages import Language
from cloister.agent.interpreter.process import BridgedProcess, LaunchSpec
from framework.fake_interpreter import Interpreter, Outcome, collect

BRIDGE = Path(cloister.__file__).parent / "agent" / "drivers" / "jupyter" / "main.py"
FAKE = Path(__file__).parents[2] / "framework" / "fake_jupyter.py"

Make = Callable[..., Interpreter]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make interpreters whose one language is the fake kernel; words are its arguments, keywords fields of its kernel.json."""
    made: list[Interpreter] = []
    (tmp_path / "memory.events").write_text("oom_kill 0\n", encoding="ascii")

    def start_with(settings: KernelSettings, spec: Path) -> Callable[[Language, str], Kernel]:
        def start(_language: Language, cwd: str) -> Kernel:
            account = find_account(pwd.getpwuid(os.getuid()).pw_name)
            env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "GIVEN": "yes", "TMPDIR": str(tmp_path)}
            launch = LaunchSpec(argv=[sys.executable, str(BRIDGE), str(spec)], env=env, cwd=cwd, account=account)
            return DriverKernel(BridgedProcess(launch), settings, Cgroup(tmp_path), {})

        return start

    def make_one(*words: str, max_output_bytes: int = 64 << 20, **fields: object) -> Interpreter:
        spec = tmp_path / "prefix" / "share" / "jupyter" / "kernels" / f"fake{len(made)}"
        spec.mkdir(parents=True)
        argv = [sys.executable, str(FAKE), "{connection_file}", *words]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "language": "fake", **fields}), encoding="utf-8")
        settings = KernelSettings(language="fake", interrupt="bridge", max_output_bytes=max_output_bytes, mem_limit_mib=512)
        language = Language("fake", ("python",), lambda _context: [], "bridge", takes_envs=False)
        contexts = Contexts((), str(tmp_path), start_with(settings, spec), lambda _kernel: {}, others=lambda: [language])
        made.append(Interpreter(contexts, tmp_path, []))
        return made[-1]

    yield make_one
    for interpreter in made:
        await interpreter.contexts.close()


async def test_output_results_and_errors_keep_their_order(make: Make) -> None:
    """A kernel's messages come in order, results with all their types, the value of the cell as the main one."""
    code = (
        "out('a\\n'); result({'text/html': '<b>1</b>', 'text/plain': '1'}, 'display_data'); out('b\\n', 'stderr')\n"
        "result('2', 'update_display_data'); result({'text/plain': '3', 'image/png': 'aGk='})"
    )
    outcome = await make().run(code)
    kinds = [type(event).__name__ for event in outcome.events]
    assert kinds == ["Output", "Display", "Output", "Display", "Display", "Finished"]
    displays = [event for event in outcome.events if isinstance(event, Display)]
    assert [display.main for display in displays] == [False, False, True]
    assert displays[0].data == {"text/html": "<b>1</b>", "text/plain": "1"}
    assert displays[2].data["image/png"] == "aGk="
    assert (outcome.stdout, outcome.stderr, outcome.count) == ("a\n", "b\n", 1)


async def test_empty_result_is_none(make: Make) -> None:
    """Kernels that answer a statement with an empty text have no result to show."""
    outcome = await make().run("result(''); result({}); result({'text/plain': None})")
    assert [type(event).__name__ for event in outcome.events] == ["Finished"]


async def test_state_and_count_are_kept(make: Make) -> None:
    """A run sees the names of earlier ones; the counter is the kernel's."""
    interpreter = make()
    await interpreter.run("x = 41")
    outcome = await interpreter.run("result(x + 1)")
    assert (outcome.text, outcome.count) == ("42", 2)


@pytest.mark.parametrize("words", [(), ("late-errors",)])
async def test_error_comes_once_with_its_traceback(make: Make, words: tuple[str, ...]) -> None:
    """An error that is both published and replied, in any order, is one error, with its colours; the next run works."""
    interpreter = make(*words)
    outcome = await interpreter.run("1/0")
    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.value) == ("ZeroDivisionError", "division by zero")
    assert outcome.error.traceback.startswith("\x1b[31mline one\x1b[0m\n")
    assert sum(type(event).__name__ == "Failure" for event in outcome.events) == 1
    assert (await interpreter.run("result(1)")).text == "1"


async def test_nothing_is_lost_between_reply_and_idle(make: Make) -> None:
    """Many messages that race with the reply arrive whole and in order."""
    interpreter = make()
    outcome = await interpreter.run("for i in range(30000): out(f'{i}\\n')")
    assert outcome.stdout == "".join(f"{i}\n" for i in range(30000))


async def test_output_after_the_reply_belongs_to_the_run(make: Make) -> None:
    """A run is not over before its kernel is idle: what is published between reply and idle is its output."""
    outcome = await make().run("after = ['a', 'b', 'c']; out('first;')")
    assert (outcome.stdout, outcome.stderr) == ("first;abc", "")


async def test_output_arrives_while_the_code_runs(make: Make) -> None:
    """Output is given when it is published, not at the end."""
    run = make().submit("out('first'); time.sleep(1.5); out('second')")
    await run.next_events()
    began = time.monotonic()
    outcome = await collect(run)
    assert outcome.stdout == "second"
    assert time.monotonic() - began > 1


async def test_slow_reader_holds_the_kernel(make: Make) -> None:
    """While no client reads, a kernel that floods is stopped and its bridge stays small; in the end all output arrives."""
    interpreter = make(max_output_bytes=512 << 20)
    count = 40_000
    run = interpreter.submit(f"out('here\\n')\nfor i in range({count}): out('x' * 999 + '\\n')")
    first = Outcome(await run.next_events()).stdout
    await asyncio.sleep(3)
    (bridge,) = (pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and _is_bridge(pid, interpreter.cgroup))
    status = dict(line.split(":", 1) for line in (bridge / "status").read_text().splitlines())
    assert int(status["RssAnon"].split()[0]) < 60 << 10
    kernel = (bridge / "task" / bridge.name / "children").read_text().split()[0]
    assert Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    outcome = await collect(run)
    assert first + outcome.stdout == "here\n" + ("x" * 999 + "\n") * count
    assert outcome.error is None


def _is_bridge(pid: Path, scratch: Path) -> bool:
    try:
        words = (pid / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(BRIDGE).encode() in words and any(word.startswith(str(scratch).encode()) for word in words)


async def test_output_bound_ends_the_run_and_keeps_the_state(make: Make) -> None:
    """A flood past the bound is interrupted with an error that names it."""
    interpreter = make(max_output_bytes=2 << 20)
    await interpreter.run("x = 7")
    outcome = await interpreter.run("while True: out('y' * 1000)")
    assert outcome.error is not None
    assert outcome.error.name == "OutputLimitExceeded"
    assert (await interpreter.run("result(x)")).text == "7"


@pytest.mark.parametrize(("words", "fields"), [((), {}), (("interruptible",), {"interrupt_mode": "message"})])
async def test_abandoned_run_is_interrupted_and_state_is_kept(make: Make, words: tuple[str, ...], fields: dict[str, str]) -> None:
    """An abandoned run stops, by signal or by message as the kernelspec says; the next one keeps the state."""
    interpreter = make(*words, **fields)
    await interpreter.run("x = 3")
    run = interpreter.submit("out('on')\nwhile True: time.sleep(0.01)")
    await run.next_events()
    run.abandon()
    began = time.monotonic()
    outcome = await interpreter.run("result(x)")
    assert (outcome.text, outcome.stderr) == ("3", "")
    assert time.monotonic() - began < 15


async def test_interrupt_reaches_a_child(make: Make) -> None:
    """Code that waits for a program in a process group of its own is stopped with it, even where the kernel itself hears nothing."""
    interpreter = make("deaf")
    await interpreter.run("x = 3; import signal, subprocess; hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)")
    run = interpreter.submit("out('on'); subprocess.run(['sleep', '60'], process_group=0, preexec_fn=hear)")
    await run.next_events()
    run.abandon()
    assert (await interpreter.run("result(x)")).text == "3"


async def test_kernel_that_does_not_stop_is_killed_and_the_next_run_is_told(make: Make) -> None:
    """After seconds of deafness the kernel is killed; the next run has a new one and says that the state is lost."""
    interpreter = make("deaf")
    run = interpreter.submit("out('on')\nwhile True: pass")
    await run.next_events()
    run.abandon()
    outcome = await interpreter.run("result('new')")
    assert outcome.text == "new"
    assert "killed after 4 s" in outcome.stderr
    assert "state was lost" in outcome.stderr


@pytest.mark.parametrize(
    ("code", "reason"), [("os._exit(3)", "exit code 3"), ("os.abort()", "signal 6 (SIGABRT)"), ("os.kill(os.getpid(), 9)", "SIGKILL")]
)
async def test_death_is_named(make: Make, code: str, reason: str) -> None:
    """The kernel's own end is told as such, after what it had published; the next run works."""
    interpreter = make()
    outcome = await interpreter.run(f"out('last words'); os.write(2, b'in its log'); time.sleep(0.2); {code}")
    assert outcome.stdout == "last words"
    assert "in its log" in outcome.stderr
    assert outcome.error is not None
    assert outcome.error.name == "KernelDied"
    assert reason in outcome.error.value
    assert (await interpreter.run("result('alive')")).text == "alive"


async def test_kernel_that_cannot_start_says_why(make: Make) -> None:
    """The exit code and what it wrote are in the error."""
    outcome = await make("dies").run("1")
    assert outcome.error is not None
    assert outcome.error.name == "KernelStartError"
    assert "exit code 7" in outcome.error.value
    assert "no such module: fake" in outcome.error.value


async def test_first_run_waits_for_a_kernel_that_answers_too_early(make: Make) -> None:
    """A kernel that answers while it still sets itself up gets its first code when it has come to rest."""
    assert (await make("early").run("result('done')")).text == "done"


async def test_missing_program_is_named(make: Make) -> None:
    """A kernelspec whose program is not there gives an error with its name."""
    outcome = await make(argv=["/no/such/kernel"]).run("1")
    assert outcome.error is not None
    assert "/no/such/kernel" in outcome.error.value


async def test_input_is_refused(make: Make) -> None:
    """A kernel that asks for input all the same reads an end of file, and the run says so once."""
    outcome = await make().run("result(repr(kernel.ask() + kernel.ask()))")
    assert outcome.text == "'\\x04\\x04'"
    assert outcome.stderr.count("asked for input") == 1


async def test_run_with_variables_is_refused(make: Make) -> None:
    """A run with variables of its own is not run, since the kernel would not see them; the next run works."""
    interpreter = make()
    await interpreter.run("x = 1")
    outcome = await interpreter.run("x = 2", A="1")
    assert outcome.error is not None
    assert outcome.error.name == "EnvsNotSupported"
    assert isinstance(outcome.events[-1], Finished)
    assert (await interpreter.run("result(x)")).text == "1"


async def test_kernel_has_its_environment(make: Make) -> None:
    """The kernelspec's variables may quote those of the sandbox; the protocol's own are gone."""
    interpreter = make(env={"OWN": "${GIVEN} and $5"})
    outcome = await interpreter.run("result(str([os.environ.get(n) for n in ('GIVEN', 'OWN', 'CLOISTER_KERNEL_FD')]))")
    assert outcome.text == "['yes', 'yes and $5', None]"


async def test_kernel_without_idle_ends_its_run(make: Make) -> None:
    """A run whose kernel never says that it is idle ends soon after its reply, and says that something may be missing."""
    outcome = await make("never-idle").run("out('all')")
    assert outcome.stdout == "all"
    assert "may be missing" in outcome.stderr


async def test_foreign_and_malformed_messages_are_left_aside(make: Make) -> None:
    """Messages with another key, no JSON, wrong shapes or too few frames neither end the run nor the bridge."""
    code = (
        "parent = kernel.parent\n"
        "publish('stream', {'name': 'stdout', 'text': 'forged'}, key='other')\n"
        "for junk in ([b''], [b'x'] * 40, [b'<IDS|MSG>'], [b'<IDS|MSG>', b'', b'{', b'', b'', b'']): kernel.iopub.send_multipart(junk)\n"
        "for content in ([], 5, {'text': 5}, {'data': []}, {'ename': [], 'traceback': 7}, {'execution_state': {}}):\n"
        "    for kind in ('stream', 'execute_result', 'error', 'status', 'nonsense', 'comm_open'):\n"
        "        if kind != 'error': publish(kind, content)\n"
        "publish('status', {'execution_state': 'idle'}, parent={'msg_id': 'other'})\n"
        "publish('stream', {'name': 'stdout', 'text': 'of nobody;'}, parent={})\n"
        "out('end')"
    )
    outcome = await make().run(code)
    assert outcome.stdout == "of nobody;end"
    assert outcome.error is None


async def test_deep_json_is_left_aside(make: Make) -> None:
    """JSON nested a hundred thousand deep is no message."""
    code = (
        "import hmac, sys\n"
        "fake = sys.modules['__main__']\n"
        "deep = fake.frames('stream', '', kernel.parent)\n"
        "deep[5] = b'[' * 100000\n"
        "key = fake.CONNECTION['key'].encode()\n"
        "deep[1] = hmac.new(key, b''.join(deep[2:]), 'sha256').hexdigest().encode()\n"
        "kernel.iopub.send_multipart(deep); out('end')"
    )
    outcome = await make().run(code)
    assert (outcome.stdout, outcome.error) == ("end", None)


async def test_a_pager_s_text_is_shown(make: Make) -> None:
    """Help that a kernel wants shown in a pager is output."""
    outcome = await make().run("payload = [{'source': 'page', 'data': {'text/plain': 'help'}}, {'source': 'set_next_input'}, 5]")
    assert outcome.stdout == "help\n"


async def test_background_output_goes_to_the_next_run(make: Make) -> None:
    """Output of a thread after its run belongs to the next run."""
    interpreter = make()
    await interpreter.run("import threading; threading.Timer(0.2, out, ['late;']).start()")
    await asyncio.sleep(1.5)
    assert (await interpreter.run("out('now')")).stdout == "late;now"


async def test_log_is_not_output(make: Make) -> None:
    """Text on a kernel's own descriptors is its log, however long it is."""
    outcome = await make().run("for _ in range(200): os.write(1, b'z' * 65536)\nout('end')")
    assert (outcome.stdout, outcome.stderr) == ("end", "")


async def test_restart_ends_the_tree(make: Make) -> None:
    """A restarted context has a new kernel, and nothing of the old one lives."""
    interpreter = make()
    outcome = await interpreter.run("import subprocess; child = subprocess.Popen(['sleep', '600']); result(f'{os.getpid()} {child.pid}')")
    pids = [int(pid) for pid in (outcome.text or "").split()]
    await interpreter.context().restart()
    assert (await interpreter.run("result('child' in globals())")).text == "False"
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_private_directory_is_removed(make: Make, tmp_path: Path) -> None:
    """The connection file is in a directory of the kernel's user alone; it goes with the kernel, at the latest when another one starts."""
    interpreter = make()
    await interpreter.run("1")
    (directory,) = tmp_path.glob("cloister-kernel-*")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "kernel.json").stat().st_mode & 0o777 == 0o600
    await interpreter.context().restart()
    await interpreter.run("1")
    (other,) = tmp_path.glob("cloister-kernel-*")
    assert other != directory
    await interpreter.run("os._exit(0)")
    assert not list(tmp_path.glob("cloister-kernel-*"))
