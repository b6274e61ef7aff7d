"""The form of an attack, how it is attempted, and the raw system calls that attacks make. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["REFUSALS", "Attack", "Attempt", "Family", "Outcome", "attempt_all", "call", "did", "fail", "in_child", "libc"]

Attempt = Callable[[], object]
libc = ctypes.CDLL(None, use_errno=True)

REFUSALS = frozenset({"EPERM", "EACCES", "ENOSYS", "EROFS"})
"""Errors by which a kernel says no. Others may come of a mistake in the attempt, so an attack names those that it accepts."""
_TIME_S, _CHILD_TIME_S = 20, 5


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt. ``text`` is an errno's name, what was done, or the error of a broken attempt."""

    kind: Literal["refused", "without effect", "done", "broken"]
    text: str = ""


@dataclass(frozen=True)
class Attack:
    """An attempt. It raises OSError if it is refused, returns None if it had no effect, and anything else if it was done."""

    name: str
    """Completes the sentence "Root of a sandbox cannot …"."""
    attempt: Attempt
    namespace: str
    """What holds it off on this runtime."""
    gvisor: str
    refusals: frozenset[str] = REFUSALS


class Family:
    """The attacks of one module, in order."""

    def __init__(self, namespace: str, gvisor: str) -> None:
        """The arguments say what holds most of them off on each runtime."""
        self._held = namespace, gvisor
        self.attacks: list[Attack] = []

    def add(self, name: str, attempt: Attempt, *refusals: str, namespace: str = "", gvisor: str = "", held: str = "") -> None:
        """One more. ``refusals`` are further errors that count as a refusal; ``held`` is what holds it off on both runtimes."""
        by = namespace or held or self._held[0], gvisor or held or self._held[1]
        self.attacks.append(Attack(name, attempt, *by, REFUSALS | set(refusals)))

    def attack(self, name: str, *refusals: str, namespace: str = "", gvisor: str = "", held: str = "") -> Callable[[Attempt], Attempt]:
        """The same as a decorator."""

        def add(function: Attempt) -> Attempt:
            self.add(name, function, *refusals, namespace=namespace, gvisor=gvisor, held=held)
            return function

        return add


def call(number: int, *arguments: Any) -> int:
    """A system call. Raises: OSError."""
    ctypes.set_errno(0)
    result: int = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    if result < 0:
        fail(ctypes.get_errno())
    return result


def did(function: Callable[..., object], *arguments: Any) -> str:
    """Do what returns nothing, so that it counts as done. Raises: OSError."""
    function(*arguments)
    return "done"


def fail(number: int) -> None:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number))


def in_child(work: Callable[[], bool]) -> bool:
    """Whether ``work`` says so in a child of its own, which may be killed or refused meanwhile."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(_CHILD_TIME_S)
        said = False
        with contextlib.suppress(OSError):
            said = work()
        os._exit(0 if said else 1)
    _, status = os.waitpid(pid, 0)
    return status == 0


def attempt_all(attacks: list[Attack]) -> dict[str, dict[str, str]]:
    """The outcome of each, by its name. One that crashes or hangs is broken, and disturbs no other."""
    return {attack.name: vars(_attempt(attack)) for attack in attacks}


def _attempt(attack: Attack) -> Outcome:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        signal.alarm(_TIME_S)
        os.write(theirs, json.dumps(vars(_outcome(attack))).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    return Outcome(**json.loads(text)) if text else Outcome("broken", f"the attempt ended with status {status}")


def _outcome(attack: Attack) -> Outcome:
    try:
        done = attack.attempt()
    except OSError as error:
        return Outcome("refused", errno.errorcode.get(error.errno or 0, str(error)))
    except BaseException:  # noqa: BLE001 - the test shows it
        return Outcome("broken", traceback.format_exc(limit=-3))
    return Outcome("without effect") if done is None else Outcome("done", str(done)[:2000])
