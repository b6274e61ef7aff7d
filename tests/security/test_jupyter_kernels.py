"""A sandbox attacks its agent by the Jupyter kernels that it installs: what they are, and where they are found."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]
KERNELS = "/usr/local/share/jupyter/kernels"


@pytest.fixture
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox of its own for each attack."""
    with Sandbox.create(timeout=300, **server.sdk) as made:
        yield made


TRAPS = {
    "pipe": "mkfifo kernel.json",
    "endless": "ln -s /dev/zero kernel.json",
    "memory": "ln -s /proc/1/mem kernel.json",
    "loop": "ln -s kernel.json kernel.json",
    "gigabytes": "truncate -s 4G kernel.json",
    "deep": "head -c 200000 /dev/zero | tr '\\0' '[' > kernel.json",
    "many": "cd .. && for i in $(seq 3000); do mkdir k$i; done",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_kernelspec_cannot_hold_the_agent(sandbox: Sandbox, trap: str) -> None:
    """Whatever lies where kernelspecs are looked for, the search ends at once, and what is to be found is found."""
    assert shell(sandbox, f"mkdir -p {KERNELS}/aaa && cd {KERNELS}/aaa && {TRAPS[trap]}").status == 0
    began = time.monotonic()
    with pytest.raises(Exception, match=r"Available: python, .*bash"):
        sandbox.run_code("1", language="cobol", timeout=20)
    assert time.monotonic() - began < 5
    assert "".join(sandbox.run_code("print('alive')", timeout=20).logs.stdout) == "alive\n"


@pytest.mark.parametrize(
    "spec",
    [
        {"argv": ["sleep", "600"]},
        {"argv": ["python3", "-c", "import os\nfor _ in range(1 << 20): os.write(1, b'x' * 1024)"]},
        {"argv": ["python3", "-c", "import os\nwhile True: os.fork()"]},
        {"argv": ["/proc/self/mem"]},
        {"argv": []},
        {"argv": ["true"], "env": {"A": 5}},
    ],
    ids=["hangs", "floods", "forks", "no-program", "empty", "wrong-env"],
)
def test_kernel_cannot_hurt_more_than_its_own_runs(sandbox: Sandbox, spec: dict[str, object]) -> None:
    """A kernel that hangs, floods, forks or is none fails by itself: the agent answers, and other languages of the sandbox work."""
    sandbox.files.write(f"{KERNELS}/evil/kernel.json", json.dumps({"language": "evil", **spec}), user="root")
    context = sandbox.create_code_context(language="evil")
    time.sleep(2)
    assert sandbox.is_running()
    sandbox.remove_code_context(context)
    deadline = time.monotonic() + 60
    while True:  # forks are gone when their context is
        execution = sandbox.run_code("print('alive')", timeout=60)
        if execution.error is None or time.monotonic() > deadline:
            break
    assert "".join(execution.logs.stdout) == "alive\n", execution
    assert sandbox.files.read("/etc/hostname")
