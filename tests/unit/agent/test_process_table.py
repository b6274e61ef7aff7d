"""The table of processes: the bound of the output that all of them keep together."""

from __future__ import annotations

import os
import signal

import pytest

from cloister.agent.accounts import Account
from cloister.agent.events import EventLog
from cloister.agent.process import table as module
from cloister.agent.process.launch import Launch
from cloister.agent.process.process import OutOfMemory, Process
from cloister.agent.process.table import ProcessTable
from cloister.protocol.process import ProcessConfig
from framework.waiting import until

ME = Account("me", os.getuid(), os.getgid(), (os.getgid(),), "/", "/bin/sh")
ENV = {"PATH": "/usr/bin:/bin"}


async def test_many_processes_share_the_memory_for_unread_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of four processes without a reader keeps a quarter of what one may keep, and the newest output of it."""
    monkeypatch.setattr(module, "_ALL_UNREAD_BYTES", 1 << 20)
    table = ProcessTable(EventLog(), 1 << 20, OutOfMemory(lambda: 0, 512))
    config = ProcessConfig(cmd="/bin/sh")

    def start(script: str) -> Process:
        return table.start(Launch(argv=("/bin/sh", "-c", script), env=ENV, cwd="/", account=ME), config, None).process

    processes = [start("sleep 60") for _ in range(3)]
    processes.append(start("head -c 2000000 /dev/zero; echo last; exec sleep 60"))
    log = processes[-1].log
    try:
        await until(lambda: log.kept_bytes > 0 and log._chunks[-1][2].endswith(b"last\n"))
        assert 200_000 < log.kept_bytes <= 1 << 18
    finally:
        for process in processes:
            process.signal(signal.SIGKILL)
        await until(lambda: all(process.result is not None for process in processes))
