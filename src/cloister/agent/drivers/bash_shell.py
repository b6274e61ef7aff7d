"""The bash driver: one bash process that keeps its state from cell to cell.

It owns the bash process and its control descriptors; it must not read, buffer or touch what the cells print: bash inherits the
driver's descriptors 1 and 2, which are the agent's pipes. Protocol: README.md. Standard library only, few imports (start time).

How a cell runs. Bash executes a loop that is one line of script (:data:`_LOOP`), so that line numbers in a cell's errors are the cell's::

    go pipe      driver -> bash   a newline: a cell is there          input memfd    status, environment, code, NUL-separated: data
    report pipe  bash -> driver   its status when the cell has ended  state memfds   a dump of variables, functions, options, …

Whatever ends a non-interactive bash early (``exit``, ``set -e``, an unset variable under ``set -u``, SIGINT) runs its EXIT trap, which
dumps the state; the driver then starts a new bash that takes the state up. So none of these ends a session. Only where bash had
no chance to dump (``exec``, kill -9, an EXIT trap of the user's own) is state lost, and the cell's error says so.

Invariant: the driver waits for the report or for bash's death, never for the end of a pipe, so background processes hold nothing up.
"""

# ruff: noqa: PTH118, PTH123, PTH208 - importing pathlib would double the driver's start time
from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing would take a fifth of the start
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]

_RESTORE, _GO, _REPORT, _INPUT, _OUT, _ERR = range(249, 255)
"""Bash's descriptors: high, out of the way of scripts that use 9 or 200 for flock; cells and their children do not have them."""
_IDLE, _BUSY, _INTERRUPTED = b"\n# complete 0\n", b"\n# complete 1\n", b"\n# complete 2\n"
"""How a whole dump ends: bash was between cells, or in one, or in one that took SIGINT (from whomever)."""
_REPEAT_S = 0.25
"""SIGINT is sent again as often as this, for programs that take the first one for something else."""
_ESCALATE_S = 1.0
"""After this long, what the interrupted cell started is killed and bash told to end; after twice as long bash is killed."""

# Variables that bash itself makes, or the driver: not part of a dump.
_OWN = (
    "BASH|BASHOPTS|BASHPID|BASH_*|COMP_*|DIRSTACK|EPOCH*|EUID|FUNCNAME|GROUPS|HISTCMD|IFS|LINENO|PIPESTATUS|PPID|RANDOM|SECONDS|"
    "SHELLOPTS|SHLVL|SRANDOM|UID|_|__cloister_*"
)
_ALL_NAMES = " ".join(f"${{!{first}@}}" for first in "_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# The dump is options, a NUL, and the rest; it starts no process, because bash may be about to die of a signal.
_DUMP = (
    '__cloister_dump() { builtin set +o; builtin printf "set +e\\n"; ((__cloister_u)) && builtin echo "set +u";'
    ' builtin printf "\\0trap - INT TERM\\n"; builtin trap -p;'
    " builtin trap '' INT TERM; ((__cloister_busy == 2)) && builtin echo __cloister_traps;"
    " builtin set +efuxn; builtin trap - DEBUG ERR RETURN;"
    ' ((${#FUNCNAME[@]} > 1)) && builtin set -- "${__cloister_args[@]}";'
    ' builtin printf "set --"; (($#)) && builtin printf " %q" "$@"; builtin echo;'
    ' builtin printf "cd -- %q\\n" "$PWD"; builtin umask -p; if [[ -v IFS ]]; then builtin declare -p IFS; else builtin echo unset IFS; fi;'
    " builtin local __cloister_v IFS=$' \\t\\n';"
    f" for __cloister_v in {_ALL_NAMES}; do case $__cloister_v in {_OWN}) ;; *) builtin declare -p $__cloister_v;; esac; done;"
    " builtin declare -f; builtin declare -Fx; builtin shopt -p; builtin alias -p;"
    ' builtin printf "%s\\n" "$__cloister_undo" ""; builtin echo "# complete $__cloister_busy"; };'
)
# An unset variable under set -u is the one thing that ends bash *and* leaves the functions it was in, so that the dump has no local
# variables in it; so that is how SIGINT ends a cell. A second SIGINT must not end the dump: it is ignored from then on.
_TRAPS = (
    "__cloister_traps() { builtin trap 'exit 143' TERM; builtin trap '{ trap \"\" INT; ((__cloister_busy)) && __cloister_busy=2;"
    ' [[ -o nounset ]] || __cloister_u=1; set -u; : "$__cloister_unset"; } 2>/dev/null\' INT; };'
)
# Sets the run's variables and leaves in __cloister_undo what puts the old ones back; gives the last cell's status, so that $? is right.
_ENTER = (
    "__cloister_enter() { builtin local - __cloister_i __cloister_n; builtin set +efux;"
    ' __cloister_busy=1 __cloister_undo=""; __cloister_args=("$@");'
    " for ((__cloister_i = 1; __cloister_i < ${#__cloister_in[@]} - 1; __cloister_i += 2)); do __cloister_n=${__cloister_in[__cloister_i]};"
    ' __cloister_undo+="unset -v $__cloister_n;";'
    " if [[ ${!__cloister_n@a} == *[aA]* ]]; then __cloister_undo+=$(builtin declare -p $__cloister_n)';';"
    ' elif [[ -v $__cloister_n ]]; then __cloister_undo+="${!__cloister_n@A};"; fi;'
    ' builtin printf -v $__cloister_n %s "${__cloister_in[__cloister_i + 1]}"; builtin export $__cloister_n; done;'
    " builtin return ${__cloister_in[0]}; };"
)
# The state is written through the driver's own descriptor (@STATE@): in the middle of a cell bash has none of the above.
_TRAP_EXIT = "trap '{ __cloister_dump \"$@\" >@STATE@; } 2>/dev/null' EXIT;"
_CLOSE = " ".join(f"{fd}>&-" for fd in range(_RESTORE, _ERR + 1))
# What is the driver's own runs with its output thrown away, so that a user's set -x or DEBUG trap does not show it.
_LOOP = (
    f"{{ trap '' INT; {_DUMP}{_TRAPS}{_ENTER} __cloister_u=0 __cloister_busy=0; shopt -s expand_aliases; {_TRAP_EXIT}"
    f' mapfile -d "" -t __cloister_in <&{_RESTORE};'
    f' builtin eval "${{__cloister_in[1]}}"; {_TRAP_EXIT}'
    f' builtin eval "${{__cloister_in[0]}}"; builtin echo ready >&{_REPORT}; }} >/dev/null 2>&1;'
    f" while {{ builtin read -r -u {_GO} __cloister_in; }} >/dev/null 2>&1; do"
    f' {{ builtin mapfile -d "" -t __cloister_in <&{_INPUT}; __cloister_enter "$@"; }} >/dev/null 2>&1;'
    f' {{ builtin eval "${{__cloister_in[-1]}}" </dev/null >&{_OUT} 2>&{_ERR} {_CLOSE};'
    ' __cloister_status=$?; builtin eval "$__cloister_undo"; __cloister_undo="" __cloister_busy=0;'
    f' builtin printf "%s %s\\n" "$__cloister_status" "$-" >&{_REPORT}; }} >/dev/null 2>&1; done'
)


class _Bash:
    """One bash process. It is the leader of its process group, so that an interrupt reaches what runs in its foreground."""

    def __init__(self, path: str, env: dict[str, str], restore: int) -> None:
        go_read, self._go = os.pipe()
        self.report, report_write = os.pipe()
        self._input = os.memfd_create("cell")
        self.state = os.memfd_create("state")
        os.lseek(restore, 0, os.SEEK_SET)
        places = {_RESTORE: restore, _GO: go_read, _REPORT: report_write, _INPUT: self._input, _OUT: 1, _ERR: 2}
        self.pid = os.posix_spawn(
            path,
            ["bash", "--noprofile", "--norc", "-c", _LOOP.replace("@STATE@", f"/proc/{os.getpid()}/fd/{self.state}"), "bash"],
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in places.items()],
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ],
        )
        self.pidfd = os.pidfd_open(self.pid)
        os.close(go_read)
        os.close(report_write)

    def run(self, status: int, envs: dict[str, str], code: str) -> None:
        """Hand over a cell."""
        fields = [str(status)]
        for name, value in envs.items():
            fields += [name, value]
        data = "".join(f"{field}\0" for field in [*fields, code]).encode("utf-8", "surrogateescape")
        os.ftruncate(self._input, 0)
        os.lseek(self._input, 0, os.SEEK_SET)
        _write(self._input, data)
        os.lseek(self._input, 0, os.SEEK_SET)
        with contextlib.suppress(BrokenPipeError):  # it is dead, which the caller sees next
            os.write(self._go, b"\n")

    def wait(self) -> int:
        """Reap it; gives the exit code, or minus the signal's number."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def dump_end(self) -> bytes:
        """How its dump ends: one of the three above, or something else if it could not write one."""
        size = os.fstat(self.state).st_size
        return os.pread(self.state, len(_IDLE), max(0, size - len(_IDLE)))

    def interrupt(self) -> None:
        """SIGINT to the foreground; background processes of a non-interactive bash ignore it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)

    def close(self) -> None:
        """Close all descriptors but the state, which the next bash reads."""
        for fd in (self._go, self.report, self._input, self.pidfd):
            os.close(fd)


class _Driver:
    """Takes cells from the agent one by one and sees each to its end."""

    def __init__(self, path: str, channel: int) -> None:
        self._path = path
        self._channel = channel
        self._env = dict(os.environ)
        self._env.pop("CLOISTER_KERNEL_FD", None)
        self._bash = self._start(_first_state(), self._env)
        self._status, self._errexit = 0, False
        self._count = 0
        self._interrupted_at: float | None = None
        self._wakeup, wakeup_write = os.pipe()
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, lambda *_: None)

    def serve(self) -> None:
        """Run cells until the agent closes the channel."""
        self._send({"op": "ready"})
        buffer = bytearray()
        while data := os.read(self._channel, 1 << 20):
            buffer += data
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                message = json.loads(line)
                if message["op"] == "execute":
                    self._execute(message)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)

    def _execute(self, message: dict[str, Any]) -> None:
        code, envs = message["code"], message.get("envs") or {}
        self._count += 1
        error = _refusal(code, envs) or self._run(code, envs)
        if error is not None:
            self._send({"op": "error", "id": message["id"], **error})
        self._send({"op": "done", "id": message["id"], "count": self._count})

    def _run(self, code: str, envs: dict[str, str]) -> dict[str, str] | None:
        """See a cell from its beginning to its end; gives its error, if it has one."""
        self._forget_interrupts()
        started = _now()
        while True:
            self._bash.run(0 if self._errexit else self._status, envs, code)
            if self._wait(started):
                return self._outcome("")
            end = self._replace()
            if end == _INTERRUPTED:
                self._interrupted_at = self._interrupted_at or time.monotonic()
            if end in {_BUSY, _INTERRUPTED}:
                return self._outcome("")
            if end != _IDLE:
                return self._outcome(f"bash itself ended ({_describe(self._status)}); its variables, functions and options are lost")
            if self._interrupted_at is not None:  # else an interrupt that came too late for the last cell ended bash before this one
                return self._outcome("")

    def _wait(self, started: tuple[int, int]) -> bool:
        """Wait for the cell's report; False if bash ended instead."""
        report, poll = self._bash.report, select.poll()
        for fd in (report, self._bash.pidfd, self._wakeup):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(None if self._interrupted_at is None else _REPEAT_S * 1000)}
            if report in ready:
                if line := os.read(report, 4096):
                    status, flags = line.decode().split()
                    self._status, self._errexit = int(status), "e" in flags
                    return True
                poll.unregister(report)  # closed: bash ends, or has become another program
            if self._bash.pidfd in ready:
                return False
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._interrupted_at = self._interrupted_at or time.monotonic()
            if self._interrupted_at is not None:
                self._press(started)

    def _press(self, started: tuple[int, int]) -> None:
        """Interrupt the cell, with more force when it has not heeded for a while."""
        self._bash.interrupt()
        passed_s = time.monotonic() - (self._interrupted_at or 0)
        if passed_s > _ESCALATE_S:
            victims = _descendants(self._bash.pid, started)
            os.kill(self._bash.pid, signal.SIGTERM if passed_s < 2 * _ESCALATE_S else signal.SIGKILL)
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _replace(self) -> bytes:
        """Bash is gone: start another one with what it left. Gives how its dump ended."""
        old = self._bash
        code, end = old.wait(), old.dump_end()
        kept = end in {_IDLE, _BUSY, _INTERRUPTED}
        old.close()
        self._bash = self._start(old.state if kept else _first_state(), {} if kept else self._env)
        if not kept:
            os.close(old.state)
        if end != _IDLE:
            self._status, self._errexit = (code, False) if code >= 0 else (128 - code, False)
        return end

    def _outcome(self, note: str) -> dict[str, str] | None:
        if self._interrupted_at is not None:
            return {"name": "KeyboardInterrupt", "value": "", "traceback": "\n".join(filter(None, ["KeyboardInterrupt", note]))}
        if note:
            return {"name": "ShellEnded", "value": str(self._status), "traceback": note}
        if self._status:
            return {"name": "ExitStatus", "value": str(self._status), "traceback": _describe(self._status)}
        return None

    def _start(self, restore: int, env: dict[str, str]) -> _Bash:
        """A bash that is ready, with the state that ``restore`` holds; closes ``restore``."""
        for _ in range(5):
            bash = _Bash(self._path, env, restore)
            ready, _, _ = select.select([bash.report, bash.pidfd], [], [])
            if bash.report in ready and os.read(bash.report, 4096):
                os.close(restore)
                return bash
            code = bash.wait()
            bash.close()
            os.close(bash.state)
            # An interrupt for the whole session may meet it before it can take one: try again.
        raise SystemExit(f"bash does not start ({_describe(code)})")

    def _forget_interrupts(self) -> None:
        """An interrupt counts for the cell that runs when it comes."""
        self._interrupted_at = None
        while select.select([self._wakeup], [], [], 0)[0]:
            os.read(self._wakeup, 4096)

    def _send(self, message: dict[str, Any]) -> None:
        _write(self._channel, json.dumps(message).encode() + b"\n")


def _first_state() -> int:
    """A memfd with what a bash begins with: no options, the driver's traps."""
    fd = os.memfd_create("state")
    _write(fd, b"\0__cloister_traps\0")
    return fd


def _refusal(code: str, envs: dict[str, str]) -> dict[str, str] | None:
    """Why bash cannot take this cell, or None."""
    if "\0" in code or any("\0" in value for value in envs.values()):
        text = "bash cannot take a NUL character in code or in an environment variable"
    elif wrong := [name for name in envs if not (name.isascii() and name.isidentifier())]:
        text = f"bash cannot have a variable named {wrong[0]!r}"
    else:
        return None
    return {"name": "ValueError", "value": text, "traceback": text}


def _describe(status: int) -> str:
    """An exit status in words: ``exit status 137 (SIGKILL)``."""
    number = -status if status < 0 else status - 128
    with contextlib.suppress(ValueError):
        return f"exit status {status} ({signal.Signals(number).name})"
    return f"exit status {status}"


def _now() -> tuple[int, int]:
    """The time in the unit and from the origin of the start times of /proc/<pid>/stat, and the newest pid (proc_loadavg(5)) or 0."""
    newest = 0
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/loadavg", "rb") as loadavg:
        newest = int(loadavg.read().split()[-1])
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")), newest


def _descendants(root: int, since: tuple[int, int]) -> list[int]:
    """The processes below ``root`` that started after ``since``. Source: proc_pid_stat(5), fields 4 and 22."""
    parents: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
                parents[int(name)] = (int(fields[1]), int(fields[19]))
    found = {root}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    ticks, newest = since
    return [pid for pid in found - {root} if parents[pid][1] > ticks or (parents[pid][1] == ticks and pid > newest)]


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def main() -> int:
    """Serve until the agent closes the channel. The exit code says whether there is a bash at all."""
    channel = int(os.environ.get("CLOISTER_KERNEL_FD", "3"))
    os.set_inheritable(channel, False)
    for place in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        path = os.path.join(place, "bash")
        if os.access(path, os.X_OK):
            _Driver(path, channel).serve()
            return 0
    sys.stderr.write("there is no bash in this template\n")
    return 127
