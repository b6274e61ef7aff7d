"""A server on a host that is short of memory: it refuses what would take more, ends nothing, and goes on when there is memory again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from e2b import ServiceBusyException
from e2b_code_interpreter import Sandbox

from cloister.linux.meminfo import host_memory, memory_mib
from framework.inside import python
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

REFUSAL = r"MiB of memory available and keeps \d+"


def again(server: Server, *options: str) -> Any:
    """Start a server on the same data directory and address."""
    return running_server("--listen", server.url.removeprefix("http://"), *options, data_dir=server.data_dir)


def paused_counts(server: Server) -> dict[str, int]:
    """What the supervisor counts of paused sandboxes."""
    status = json.loads(server.cli("status", "--json", check=False).stdout)
    return dict(status["node"]["paused"])


def test_a_short_host_refuses_and_ends_nothing() -> None:
    """Creations and resumes are refused with the numbers; the paused sandbox stays as it was, and can be killed."""
    with running_server("--on-stop", "keep") as server:
        kept, other = (Sandbox.create(timeout=900, **server.sdk) for _ in range(2))
        python(kept, "kept = 7")
        kept.pause()
        other.pause()
        assert server.stop() == 0
        with again(server, "--on-stop", "keep", "--memory-reserve-mib", str(memory_mib("MemTotal"))) as short:
            with pytest.raises(ServiceBusyException, match=REFUSAL):
                Sandbox.create(**short.sdk)
            with pytest.raises(ServiceBusyException, match=REFUSAL):
                Sandbox.connect(kept.sandbox_id, **short.sdk)
            assert Sandbox.kill(other.sandbox_id, api_key=short.api_key, api_url=short.url)
            deadline, expected = time.monotonic() + 30, "paged_out" if host_memory().swap_total else "stuck"
            while not paused_counts(short)[expected]:
                assert time.monotonic() < deadline, "the supervisor neither moves the memory nor says that it cannot"
                time.sleep(0.2)
            if expected == "stuck":
                assert paused_counts(short)["resident"] > 1 << 20
                assert "LOW, and no frozen sandbox can be moved out" in short.cli("status", check=False).stdout
                assert short.log.read_text().count('"paused_memory.stuck"') == 1
            assert short.stop() == 0
            with again(server) as enough:
                sandbox = Sandbox.connect(kept.sandbox_id, timeout=300, **enough.sdk)
                assert python(sandbox, "print(kept)") == "7"
                assert sandbox.kill()
