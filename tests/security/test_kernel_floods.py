"""Code that floods its own kernel's protocol holds up nothing else in its sandbox."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b_code_interpreter import Sandbox

pytestmark = pytest.mark.root
_FLOOD = """
import gc, os
print("before")
protocol = next(one for one in gc.get_objects() if type(one).__name__ == "Channel").fileno()
def send(message):
    rest = message * 1000
    while rest:
        rest = rest[os.write(protocol, rest):]
"""
_UNTIL_SERVED = """
while not os.path.exists("/tmp/stop"):
    send(b'{"op": "ready", "padding": "' + b"x" * 1000 + b'"}\\n')
"""
"""Ends when the agent serves a command, long before so large messages pass the bound."""
_PAST_THE_BOUND = """
for _ in range(3000):
    send(b'{"op": "ready"}\\n')
"""


def test_code_cannot_hold_up_the_agent_by_messages_of_its_kernel(attacker: Sandbox) -> None:
    """While a cell floods its protocol, what it printed before arrives and a command is served; one past the bound is ended."""
    printed = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(attacker.run_code, _FLOOD + _UNTIL_SERVED, on_stdout=lambda _: printed.set(), timeout=600)
        assert printed.wait(600)
        attacker.commands.run("touch /tmp/stop")
        execution = running.result()
    assert execution.error is None, execution.error
    assert execution.logs.stdout == ["before\n"]
    execution = attacker.run_code(_FLOOD + _PAST_THE_BOUND, timeout=600)
    assert execution.error is not None
    assert execution.error.name == "OutputLimitExceeded"
    assert "".join(attacker.run_code("print('alive')").logs.stdout) == "alive\n"
