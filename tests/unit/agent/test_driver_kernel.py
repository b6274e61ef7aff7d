"""The native kernel and its contexts, against a driver that speaks the protocol by hand."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.agent.interpreter.kernel import Display, Failure, Finished, Output
from cloister.errors import ContextNotFoundError, InvalidRequestError, NotFoundError
from cloister.protocol.execution import ContextRequest
from framework.fake_interpreter import Interpreter, collect
from framework.waiting import eventually


async def test_run_gives_output_result_and_end(interpreter: Interpreter) -> None:
    """A run's output, result and end come in the order in which they were made."""
    outcome = await interpreter.run("out('a\\n'); result('42')")
    assert outcome.events[0] == Output("stdout", "a\n")
    assert outcome.text == "42"
    assert outcome.count == 1


async def test_state_is_kept_between_runs(interpreter: Interpreter) -> None:
    """What one run defines the next one sees."""
    await interpreter.run("x = 5")
    assert (await interpreter.run("result(str(x))")).text == "5"


async def test_envs_reach_the_driver_as_data(interpreter: Interpreter) -> None:
    """Variables with quotes, newlines and other scripts arrive unchanged."""
    value = "q'\"\\\n é 😀"
    assert (await interpreter.run("result(envs['A'])", A=value)).text == value


async def test_output_comes_before_the_message_sent_after_it(interpreter: Interpreter) -> None:
    """Raw output written before a result is delivered before it, also when both wait together."""
    outcome = await interpreter.run("out('x' * 50000); result('r'); out('y')")
    kinds = [event.text[0] if isinstance(event, Output) else type(event).__name__ for event in outcome.events]
    assert kinds.index("x") < kinds.index("Display")
    assert outcome.stdout == "x" * 50000 + "y"


async def test_awaited_message_comes_before_the_output_after_it(interpreter: Interpreter) -> None:
    """A driver that waits for its results to be taken has each between the texts written before and after it."""
    code = "for i in range(60):\n out(f'b{i}'); awaited({'op': 'result', 'data': {'text/plain': f'r{i}'}}, i); out(f'a{i}')"
    seen = ""
    for event in (await interpreter.run(code)).events:
        seen += event.text if isinstance(event, Output) else event.data["text/plain"] if isinstance(event, Display) else ""
    assert seen == "".join(f"b{i}r{i}a{i}" for i in range(60))


async def test_split_and_broken_utf8(interpreter: Interpreter) -> None:
    """A character cut between two writes arrives whole; bytes that are no text become replacement characters."""
    outcome = await interpreter.run("import time\nout(b'\\xe2\\x82'); time.sleep(0.1); out(b'\\xac \\xff')")
    assert outcome.stdout == "€ \ufffd"


async def test_messages_of_output_are_joined(interpreter: Interpreter) -> None:
    """Output messages that wait together become one event, in order."""
    outcome = await interpreter.run("for i in range(500): send({'op': 'stdout', 'id': run_id, 'text': f'{i}\\n'})")
    assert outcome.stdout == "".join(f"{i}\n" for i in range(500))
    assert len(outcome.events) < 250


async def test_runs_of_one_context_queue_in_order(interpreter: Interpreter) -> None:
    """Concurrent runs of a context happen one after the other, first come first served."""
    runs = [
        interpreter.submit(f"import time; time.sleep(0.02); seen = globals().get('seen', []) + [{i}]; result(str(seen))") for i in range(5)
    ]
    outcomes = await asyncio.gather(*(collect(run) for run in reversed(runs)))
    assert [outcome.text for outcome in reversed(outcomes)] == [str(list(range(i + 1))) for i in range(5)]


async def test_contexts_run_side_by_side(interpreter: Interpreter) -> None:
    """A run in one context does not wait for one in another."""
    other = interpreter.contexts.create(ContextRequest())
    busy = interpreter.submit("import time; time.sleep(30)")
    pulling = asyncio.create_task(busy.next_events())
    await asyncio.sleep(0.05)
    assert (await asyncio.wait_for(interpreter.run("result('here')", other), 10)).text == "here"
    pulling.cancel()
    busy.abandon()


@pytest.mark.parametrize(("code", "reason"), [("import os; os._exit(3)", "exit code 3"), ("import os; os.abort()", "signal 6 (SIGABRT)")])
async def test_death_is_explained_and_the_next_run_works(interpreter: Interpreter, code: str, reason: str) -> None:
    """A kernel that dies ends its run with the reason; the next run has a new kernel and is told nothing more."""
    outcome = await interpreter.run("out('last words'); " + code)
    assert outcome.stdout == "last words"
    assert outcome.error is not None
    assert outcome.error.name == "KernelDied"
    assert reason in outcome.error.value
    assert outcome.count is None
    after = await interpreter.run("result('alive')")
    assert (after.text, after.stderr) == ("alive", "")


async def test_out_of_memory_is_named(interpreter: Interpreter) -> None:
    """A kernel killed while the cgroup counted an out-of-memory kill is said to have run out of memory, with the limit."""
    events = interpreter.cgroup / "memory.events"
    outcome = await interpreter.run(f"open({str(events)!r}, 'w').write('oom_kill 1\\n'); import os; os.kill(os.getpid(), 9)")
    assert outcome.error is not None
    assert "out of memory" in outcome.error.value
    assert "512 MiB" in outcome.error.value


async def test_death_between_runs_is_told_by_the_next(interpreter: Interpreter) -> None:
    """When a kernel dies while nothing runs, the next run works and says on stderr that state was lost."""
    await interpreter.run("import threading, os; threading.Timer(0.05, os._exit, [9]).start()")
    await asyncio.sleep(0.3)
    outcome = await interpreter.run("result('new')")
    assert outcome.text == "new"
    assert "exit code 9" in outcome.stderr
    assert "state was lost" in outcome.stderr


async def test_abandoned_run_is_interrupted_and_state_kept(interpreter: Interpreter) -> None:
    """When the reader goes away the code stops, and the next run sees the state."""
    await interpreter.run("x = 'kept'")
    run = interpreter.submit("out('started')\nwhile True: pass")
    await run.next_events()
    run.abandon()
    outcome = await asyncio.wait_for(interpreter.run("result(x)"), 3)
    assert (outcome.text, outcome.stderr) == ("kept", "")


async def test_code_that_ignores_interrupts_is_killed_and_said_so(interpreter: Interpreter) -> None:
    """A run that swallows every interrupt is killed after seconds; the next run works and says that state was lost."""
    run = interpreter.submit("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); out('x')\nwhile True: pass")
    await run.next_events()
    run.abandon()
    outcome = await asyncio.wait_for(interpreter.run("result('new')"), 8)
    assert outcome.text == "new"
    assert "did not stop" in outcome.stderr


async def test_child_processes_are_interrupted_too(interpreter: Interpreter) -> None:
    """Code that waits for a child which got no signal of its own is stopped by interrupting the child."""
    code = "import os, signal\nold = signal.signal(signal.SIGINT, signal.SIG_IGN); pid = os.fork()\nif not pid:\n"
    code += "    signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv('/bin/sleep', ['sleep', '60'])\n"
    code += "out('x'); os.waitpid(pid, 0); signal.signal(signal.SIGINT, old)"
    run = interpreter.submit(code)
    await run.next_events()
    run.abandon()
    outcome = await asyncio.wait_for(interpreter.run("result('same ' + str(bool(old)))"), 3)
    assert outcome.text == "same True"


async def test_a_killed_kernel_leaves_no_process(interpreter: Interpreter, tmp_path: Path) -> None:
    """Restarting a context also ends children that left the kernel's session."""
    code = "import subprocess; p = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    code += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    await interpreter.run(code)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    await interpreter.context().restart()
    deadline = time.monotonic() + 5
    while _lives(pid) and time.monotonic() < deadline:  # noqa: ASYNC110 - a process cannot set an event
        await asyncio.sleep(0.02)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def test_output_bound_ends_the_run_and_names_itself(make_interpreter: Callable[..., Interpreter]) -> None:
    """Output beyond the bound gives an error that names it, what came before is complete, and the kernel lives."""
    interpreter = make_interpreter(max_output_bytes=2 << 20)
    await interpreter.run("x = 'kept'")
    outcome = await asyncio.wait_for(interpreter.run("while True: out('y' * 1000)"), 10)
    assert outcome.error is not None
    assert outcome.error.name == "OutputLimitExceeded"
    assert "2 MiB" in outcome.error.value
    assert (2 << 20) - (128 << 10) < len(outcome.stdout) <= 2 << 20
    assert (await interpreter.run("result(x)")).text == "kept"


async def test_a_result_beyond_the_bound(make_interpreter: Callable[..., Interpreter]) -> None:
    """One result larger than the bound gives the same error instead of filling memory."""
    interpreter = make_interpreter(max_output_bytes=1 << 20)
    outcome = await interpreter.run("result('z' * (5 << 20))")
    assert outcome.error is not None
    assert outcome.error.name == "OutputLimitExceeded"
    assert (await interpreter.run("result('alive')")).text == "alive"


async def test_large_result_within_the_bound(interpreter: Interpreter) -> None:
    """A result of many megabytes arrives whole."""
    outcome = await interpreter.run("result('z' * (20 << 20))")
    assert outcome.text == "z" * (20 << 20)


@pytest.mark.parametrize(
    "garbage",
    ["", "not json", "[]", '{"op": "nonsense"}', '{"op": "done", "id": "x", "count": 1}', '{"op": "stdout", "text": 5}', "[" * 100000],
)
async def test_garbage_on_the_protocol_ends_the_kernel(interpreter: Interpreter, garbage: str) -> None:
    """A line that is no message of the protocol ends the kernel with that reason; the agent goes on."""
    outcome = await interpreter.run(f"channel.sendall({garbage!r}.encode() + b'\\n'); import time; time.sleep(30)")
    assert outcome.error is not None
    assert "broke its protocol" in outcome.error.value
    assert (await interpreter.run("result('alive')")).text == "alive"


async def test_a_forged_done_of_another_run_changes_nothing(interpreter: Interpreter) -> None:
    """Only the end of the run that is on ends it."""
    outcome = await interpreter.run("send({'op': 'done', 'id': 999, 'count': 1}); out('after')")
    assert outcome.stdout == "after"


async def test_closed_protocol_socket_is_a_death(interpreter: Interpreter) -> None:
    """A driver that closes its socket but lives on is ended, with that reason."""
    outcome = await interpreter.run("import os, time; os.close(3); time.sleep(30)")
    assert outcome.error is not None
    assert "closed its protocol socket" in outcome.error.value


async def test_late_output_goes_to_the_next_run(interpreter: Interpreter) -> None:
    """Output of a thread that outlives its run is given to the next one, none of it lost."""
    await interpreter.run("import threading; threading.Timer(0.05, out, ['late\\n']).start()")
    await asyncio.sleep(1)
    assert (await interpreter.run("out('now\\n')")).stdout == "late\nnow\n"


async def test_nothing_is_read_while_nobody_asks(interpreter: Interpreter, tmp_path: Path) -> None:
    """A reader that stops reading stops the program: back-pressure, not buffering."""
    progress = tmp_path / "progress"
    run = interpreter.submit(f"for i in range(10000):\n    out('x' * 1000)\n    open({str(progress)!r}, 'w').write(str(i))")
    await run.next_events()
    await asyncio.sleep(0.5)
    assert int(progress.read_text()) < 300
    outcome = await collect(run)
    assert len(outcome.stdout) > 9_000_000


async def test_cost_is_reported(interpreter: Interpreter) -> None:
    """The end of a run says what it cost: time, processor time, memory."""
    outcome = await interpreter.run(
        "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nb = bytearray(80 << 20)"
    )
    finished = outcome.events[-1]
    assert isinstance(finished, Finished)
    assert 200 <= finished.cost.wall_ms < 20_000
    assert finished.cost.cpu_ms is not None
    assert 190 <= finished.cost.cpu_ms <= finished.cost.wall_ms + 50
    assert finished.cost.peak_mem_bytes is not None
    assert finished.cost.peak_mem_bytes > 80 << 20


async def test_kernel_that_cannot_start_says_why(interpreter: Interpreter) -> None:
    """A driver that ends before it is ready gives its exit code and what it wrote; later it is tried again."""
    interpreter.arguments.append("--broken")
    outcome = await interpreter.run("result('x')")
    assert outcome.error is not None
    assert outcome.error.name == "KernelStartError"
    assert "exit code 7" in outcome.error.value
    assert "no such module: fake" in outcome.error.value
    interpreter.arguments.clear()
    assert (await interpreter.run("result('works')")).text == "works"


async def test_context_directory(interpreter: Interpreter, tmp_path: Path) -> None:
    """A context starts in its directory, again after a restart; a missing one is refused."""
    place = tmp_path / "place"
    place.mkdir()
    context = interpreter.contexts.create(ContextRequest(cwd=str(place)))
    code = "import os; result(os.getcwd())"
    assert (await interpreter.run(code, context)).text == str(place)
    await interpreter.run("os.chdir('/')", context)
    await context.restart()
    assert (await interpreter.run(code, context)).text == str(place)
    with pytest.raises(InvalidRequestError, match="does not exist"):
        interpreter.contexts.create(ContextRequest(cwd=str(tmp_path / "none")))
    with pytest.raises(InvalidRequestError, match="absolute"):
        interpreter.contexts.create(ContextRequest(cwd="here"))


async def test_restart_ends_the_run_that_is_on(interpreter: Interpreter) -> None:
    """Restarting a context ends its run with that reason; a run that waited goes to the new kernel."""
    context = interpreter.context()
    running = asyncio.create_task(interpreter.run("import time; x = 1; time.sleep(30)"))
    waiting = asyncio.create_task(interpreter.run("result(str('x' in globals()))"))
    await asyncio.sleep(0.3)
    await context.restart()
    outcome = await asyncio.wait_for(running, 5)
    assert outcome.error is not None
    assert "restarted" in outcome.error.value
    assert (await asyncio.wait_for(waiting, 5)).text == "False"


async def test_deleted_default_context_comes_back(interpreter: Interpreter) -> None:
    """After the default context was deleted the next run has a new one."""
    first = interpreter.context()
    await interpreter.run("x = 1")
    await interpreter.contexts.delete(first.context_id)
    with pytest.raises(ContextNotFoundError):
        interpreter.contexts.get(first.context_id)
    assert interpreter.context().context_id != first.context_id
    assert (await interpreter.run("result(str('x' in globals()))")).text == "False"


async def test_runs_of_a_deleted_context_end(interpreter: Interpreter) -> None:
    """Deleting a context ends its run and those that wait for it, each with an error."""
    context = interpreter.contexts.create(ContextRequest())
    tasks = [asyncio.create_task(interpreter.run("import time; time.sleep(30)", context)) for _ in range(2)]
    await asyncio.sleep(0.3)
    await interpreter.contexts.delete(context.context_id)
    for outcome in await asyncio.wait_for(asyncio.gather(*tasks), 5):
        assert outcome.error is not None
        assert "deleted" in outcome.error.value


async def test_abandoning_a_waiting_run_leaves_the_queue(interpreter: Interpreter) -> None:
    """A run that was abandoned before its turn never runs and blocks no other."""
    first = asyncio.create_task(interpreter.run("import time; time.sleep(0.2); seen = ['first']"))
    await asyncio.sleep(0)
    second = interpreter.submit("seen.append('second')")
    third = asyncio.create_task(interpreter.run("result(str(seen))"))
    await asyncio.sleep(0.05)
    second.abandon()
    await first
    assert (await third).text == "['first']"


async def test_unknown_language_lists_the_others(interpreter: Interpreter) -> None:
    """An unknown language is an error that names the available ones."""
    with pytest.raises(NotFoundError, match="python, javascript"):
        interpreter.contexts.default("cobol")


async def test_list_has_the_defaults_in_order(interpreter: Interpreter) -> None:
    """The list has the default contexts first and the newest last."""
    made = interpreter.contexts.create(ContextRequest(language="JS"))
    names = [context.language.name for context in interpreter.contexts.list()]
    assert names == ["python", "javascript", "javascript"]
    assert interpreter.contexts.list()[-1] is made


async def test_pulling_may_be_cancelled_without_loss(interpreter: Interpreter) -> None:
    """Cancelling a pull, as the keepalive does, loses no event."""
    run = interpreter.submit("import time\nfor i in range(20): out(f'{i} '); time.sleep(0.01)")
    events: list[object] = []
    while not (events and isinstance(events[-1], Finished)):
        try:
            async with asyncio.timeout(0.003):
                events += await run.next_events()
        except TimeoutError:
            continue
    assert "".join(event.text for event in events if isinstance(event, Output)) == "".join(f"{i} " for i in range(20))
    assert not any(isinstance(event, Failure) for event in events)


@pytest.mark.parametrize("line", ['{"op": "ready"}', '{"op": "done", "id": -1, "count": 0}', '{"op": "stdout", "text": ""}'])
async def test_code_cannot_hold_up_the_agent_by_empty_messages(interpreter: Interpreter, line: str) -> None:
    """While a program floods the protocol with messages that say nothing, the agent has time for everything else."""
    await interpreter.run("import time")
    flood = f"data, end = {(line + chr(10))!r}.encode() * 20_000, time.monotonic() + 1\nwhile time.monotonic() < end: channel.sendall(data)"
    running = asyncio.create_task(interpreter.run(flood))
    turns = 0
    while not running.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert (await running).error is None
    assert turns >= 4


@pytest.mark.parametrize("line", ['{"op": "ready"}', '{"op": "done", "id": -1, "count": 0}', '{"op": "stdout", "text": ""}'])
async def test_empty_messages_have_an_end(make_interpreter: Callable[..., Interpreter], line: str) -> None:
    """Messages that say nothing count as output: a run that sends them without end is ended, and its kernel lives."""
    interpreter = make_interpreter(max_output_bytes=1 << 20)
    flood = f"out('before')\nwhile True: channel.sendall({(line + chr(10))!r}.encode() * 1000)"
    outcome = await asyncio.wait_for(interpreter.run(flood), 60)
    assert outcome.stdout == "before"
    assert outcome.error is not None
    assert outcome.error.name == "OutputLimitExceeded"
    assert (await interpreter.run("result('alive')")).text == "alive"


async def test_text_does_not_wait_for_the_end_of_a_flood(interpreter: Interpreter) -> None:
    """Output before a flood of empty lines on the protocol is delivered, and the flood ends the kernel."""
    outcome = await asyncio.wait_for(interpreter.run("out('before')\nwhile True: channel.sendall(b'\\n' * 99999)"), 60)
    assert outcome.stdout == "before"
    assert outcome.error is not None
    assert "broke its protocol" in outcome.error.value


async def test_text_before_a_result_beyond_the_bound_is_given(
    interpreter: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that is too large costs itself and what comes after it, not the text that was printed before it and waits in the pipe."""
    monkeypatch.setattr("cloister.agent.interpreter.driver_channel._MAX_MESSAGE_BYTES", 1000)
    go, done = tmp_path / "go", tmp_path / "done"
    code = f"import os, time\nout('first')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    code += f"out('text'); channel.sendall(b'z' * 2000); open({str(done)!r}, 'w')\n"
    run = interpreter.submit(code + "try: time.sleep(60)\nfinally: channel.sendall(b'\\n')")
    assert await run.next_events() == [Output("stdout", "first")]
    go.touch()
    await asyncio.to_thread(eventually, done.exists)
    outcome = await collect(run)
    assert outcome.stdout == "text"
    assert outcome.error is not None
    assert outcome.error.name == "OutputLimitExceeded"


async def test_code_cannot_fill_the_agent_by_answers_that_it_does_not_read(interpreter: Interpreter) -> None:
    """A program that asks for answers without end and reads none loses its kernel, and the next run has a new one."""
    flood = "while True: channel.sendall(b'{\"op\": \"ready\", \"ack\": 1}\\n' * 1000)"
    outcome = await asyncio.wait_for(interpreter.run(flood), 60)
    assert outcome.error is not None
    assert "does not read" in outcome.error.value
    assert (await interpreter.run("result('works')")).text == "works"


@pytest.mark.parametrize(
    "message",
    [
        {"op": "error", "id": 1, "name": "E", "value": "", "traceback": "x" * 100_000},
        {"op": "result", "data": {"application/json": ["x" * 100_000]}},
        {"op": "result", "extra": {"x": "x" * 100_000}},
    ],
)
async def test_code_cannot_pass_the_bound_of_output_by_any_message(
    make_interpreter: Callable[..., Interpreter], message: dict[str, object]
) -> None:
    """Errors and results count as output, whatever they carry, so that a client's memory is bounded too."""
    interpreter = make_interpreter(max_output_bytes=2 << 20)
    outcome = await asyncio.wait_for(interpreter.run(f"for _ in range(100): send({message!r})"), 60)
    assert len(outcome.events) < 40
    assert any(isinstance(event, Failure) and event.name == "OutputLimitExceeded" for event in outcome.events)


async def test_an_idle_kernel_is_renewed_at_once(interpreter: Interpreter) -> None:
    """A copy of a sandbox has its kernels renew their generators, each once."""
    await interpreter.run("renewed = 0")
    interpreter.contexts.renew_kernels()
    assert (await interpreter.run("result(str(renewed))")).text == "1"
    assert (await interpreter.run("result(str(renewed))")).text == "1"


async def test_a_busy_kernel_is_renewed_before_its_next_run(interpreter: Interpreter) -> None:
    """A driver reads no other message in the middle of a run, so a run under way ends first."""
    await interpreter.run("renewed = 0")
    run = interpreter.submit("out('on')\nimport time; time.sleep(0.2)\nresult(str(renewed))")
    events = await run.next_events()
    interpreter.contexts.renew_kernels()
    while not isinstance(events[-1], Finished):
        events += await run.next_events()
    assert [event.data["text/plain"] for event in events if isinstance(event, Display)] == ["0"]
    assert (await interpreter.run("result(str(renewed))")).text == "1"
