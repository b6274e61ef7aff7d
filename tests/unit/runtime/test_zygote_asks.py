"""Asking a zygote whose template is hostile: nobody waits longer than once."""

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
    """A zygote that never answers, and its end of the socket, which somebody else holds open too."""
    process = subprocess.Popen(["sleep", "60"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(2.0)
    zygote = Zygote("kernel", os.pidfd_open(process.pid), ours, zygotes_module._make_log("kernel"))
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
    """It is killed then; those who come later are told at once, although a process that it has left holds its socket open."""
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


def test_its_log_is_bounded() -> None:
    """A template that prints without end fills no memory of the host, and cannot make room; what it said first is there."""
    log = zygotes_module._make_log("kernel")
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
    """A template's zygote can kill the processes of its zone: the creation says what happened, not what a socket call did."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(IsolationError, match="the sandbox ended while it was set up"):
        send_setup(ours, ["a=b"], [], b"filter", 1.0)
