"""Why a kernel's process ended: in words for the user, and as facts for the sandbox's log. No I/O but the count of kills for memory."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.process import UNKNOWN_STATUS

__all__ = ["DeathCause"]


class DeathCause:
    """The cause of one kernel's death."""

    def __init__(self, cgroup: Cgroup, mem_limit_mib: int) -> None:
        self._cgroup = cgroup
        self._mem_limit_mib = mem_limit_mib
        self._oom_kills = cgroup.oom_kills()
        self.reason = ""
        """The agent's reason for killing the kernel, if it did: a sentence without its full stop."""

    def begin_run(self) -> None:
        """A run begins: only a kill for memory after this one can be the kernel's."""
        self._oom_kills = self._cgroup.oom_kills()

    def explain(self, code: int | None) -> str:
        """A sentence for the user, without its full stop. ``code`` is that of :meth:`KernelProcess.returncode`."""
        if self.reason:
            return self.reason
        if self._ran_out_of_memory(code):
            return f"The kernel ran out of memory and was killed (the sandbox's limit is {self._mem_limit_mib} MiB)"
        if code is None:
            return "The kernel closed its protocol socket"
        if code == UNKNOWN_STATUS:
            return "The kernel ended"
        if code < 0:
            return f"The kernel was ended by signal {-code} ({_signal_name(-code)}){self._perhaps(code)}"
        return f"The kernel ended with exit code {code}"

    def _perhaps(self, code: int) -> str:
        """On gVisor, no count tells a kill for memory from another one."""
        is_unknown = code == -signal.SIGKILL and self._oom_kills is None
        return f", perhaps because it ran out of memory (the sandbox's limit is {self._mem_limit_mib} MiB)" if is_unknown else ""

    def facts(self, code: int | None) -> Mapping[str, Any]:
        """The same as numbers and words of ours."""
        if self.reason:
            return {"cause": "stopped"}
        if self._ran_out_of_memory(code):
            return {"cause": "out_of_memory", "limit_mib": self._mem_limit_mib}
        if code is None:
            return {"cause": "closed"}
        if code == UNKNOWN_STATUS:
            return {"cause": "unknown"}
        return {"cause": "signal", "signal": -code} if code < 0 else {"cause": "exit", "exit_code": code}

    def _ran_out_of_memory(self, code: int | None) -> bool:
        kills = self._cgroup.oom_kills()
        return code == -signal.SIGKILL and kills is not None and self._oom_kills is not None and kills > self._oom_kills


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
