"""Kernels that are started ahead: the first context of their language has one, and clients see no difference."""

from __future__ import annotations

from cloister.agent.interpreter.driver_kernel import DriverKernel
from cloister.protocol.execution import ContextRequest
from framework.fake_interpreter import Interpreter

_PID = "import os; result(str(os.getpid()))"


async def _ahead(interpreter: Interpreter) -> DriverKernel:
    """A kernel that is started ahead, and has no context yet."""
    await interpreter.contexts.start_ahead(["python", "r"])  # the sandbox has no R
    (kernel,) = interpreter.contexts._ahead._kernels.values()
    assert isinstance(kernel, DriverKernel)
    return kernel


async def test_the_first_context_has_it(interpreter: Interpreter) -> None:
    """The default context runs in it, from the first count on; one that is made later has a kernel of its own."""
    pid = str((await _ahead(interpreter))._process.pid)
    first = await interpreter.run(_PID)
    assert (first.text, first.count) == (pid, 1)
    assert (await interpreter.run(_PID)).text == pid
    other = interpreter.contexts.create(ContextRequest())
    assert (await interpreter.run(_PID, other)).text != pid


async def test_it_is_no_context(interpreter: Interpreter) -> None:
    """No list shows it."""
    before = [context.language.name for context in interpreter.contexts.list()]
    await _ahead(interpreter)
    assert [context.language.name for context in interpreter.contexts.list()] == before


async def test_one_that_died_is_not_used(interpreter: Interpreter) -> None:
    """The first run has a new kernel, and no notice of a loss: nothing was lost."""
    (await _ahead(interpreter)).kill("the test")
    run = await interpreter.run("out('new')")
    assert (run.stdout, run.stderr, run.error) == ("new", "", None)


async def test_it_is_renewed_in_a_copy(interpreter: Interpreter) -> None:
    """Before a client has run anything in it."""
    await _ahead(interpreter)
    interpreter.contexts.renew_kernels()
    assert (await interpreter.run("result(str(renewed))")).text == "1"


async def test_a_warm_up_does_not_count(interpreter: Interpreter) -> None:
    """Its output goes to no client, and the client's first run is number one."""
    await (await _ahead(interpreter)).warm_up("out('ours')")
    run = await interpreter.run("out('theirs')")
    assert (run.stdout, run.count) == ("theirs", 1)
