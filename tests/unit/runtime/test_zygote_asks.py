"""Waiting for a zygote and asking it, although its template is hostile: only one request waits for one that does not answer."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import IsolationError, RuntimeFailedError
from cloister.runtime.namespace import zygotes as zygotes_module
from cloister.runtime.namespace.wire import send_setup
from cloister.runtime.namespace.zygotes import Birth, Zygote

BIRTH = Birth(namespaces=[], group_files=[], cpus=[0], nofile=10)


@pytest.fixture
def held() -> Iterator[tuple[Zygote, socket.socket]]:
    """A zygote that never answers, and its end of the socket, which another process holds open too."""
    process = subprocess.Popen(["sleep", "60"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(2.0)
    zygote = Zygote("kernel", os.pidfd_open(process.pid), ours, zygotes_module.log_in_memory("kernel"))
    with theirs:
        yield zygote, theirs
        zygote.close()
    process.kill()
    process.wait()


def ask(zygote: Zygote) -> str:
    """Why there is no child."""
    with Path(os.devnull).open() as birth:
        try:
            zygote.ask(BIRTH, birth.fileno())
            zygote.answer()
        except RuntimeFailedError as error:
            return str(error)
    raise AssertionError("there is a child")


def test_only_the_first_waits_for_one_that_does_not_answer(held: tuple[Zygote, socket.socket]) -> None:
    """It is killed then. Later requests fail at once, although a process that it has left holds its socket open."""
    zygote, _theirs = held
    began = time.monotonic()
    assert "does not answer" in ask(zygote)
    for _ in range(5):
        ask(zygote)
    assert 2.0 <= time.monotonic() - began < 8


def test_its_end_does_not_wait_for_an_answer(held: tuple[Zygote, socket.socket]) -> None:
    """Who waits for one is woken."""
    zygote, _theirs = held
    said: list[str] = []
    waiting = threading.Thread(target=lambda: said.append(ask(zygote)))
    waiting.start()
    time.sleep(0.2)
    began = time.monotonic()
    zygote.close()
    assert time.monotonic() - began < 1.5
    waiting.join()
    assert len(said) == 1
    assert not zygote.is_open()


def test_one_that_takes_too_long_is_told_from_one_that_ends(held: tuple[Zygote, socket.socket]) -> None:
    """The error of a start names the cause, and then what the zygote wrote, if anything."""
    zygote, theirs = held
    with pytest.raises(RuntimeFailedError, match=r"^the kernel zygote was not ready within 0\.01 s$"):
        zygote.wait_ready(0.01)
    theirs.send(b"ready")
    zygote.wait_ready(60)
    os.write(zygote._log, b"no numpy\n")
    theirs.close()
    with pytest.raises(RuntimeFailedError, match=r"^the kernel zygote ended before it was ready; it wrote: no numpy$"):
        zygote.wait_ready(60)


def test_its_log_is_bounded() -> None:
    """A template that prints without end fills no memory of the host. Its first words are in the log."""
    log = zygotes_module.log_in_memory("kernel")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        zygote = Zygote("kernel", os.pidfd_open(os.getpid()), ours, log)
        os.write(log, b"first words\n")
        assert zygote.last_words() == "first words"
        with contextlib.suppress(PermissionError):
            for _ in range(1000):
                os.write(log, b"x" * 4096)
        with pytest.raises(PermissionError):
            os.ftruncate(log, 1 << 30)
        assert os.fstat(log).st_size == zygotes_module._LOG_SIZE
        assert zygote.last_words() == "x" * 4000


def test_a_slot_that_is_killed_while_it_is_set_up_is_told_as_such() -> None:
    """A template's zygote can kill the processes of its zone. The error then names that, and not a socket call."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(IsolationError, match="the sandbox ended while it was set up"):
        send_setup(ours, ["a=b"], [], b"filter", 1.0)
