"""How the sandbox's kernels are started: their user, environment, directory and bounds, from the init document.

The one place that turns a language into a kernel; a second kind of kernel is chosen here.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path

from cloister.agent.cgroup import Cgroup
from cloister.agent.init import SandboxState
from cloister.agent.interpreter.kernel import Kernel
from cloister.agent.interpreter.languages import Language, LanguageContext
from cloister.agent.interpreter.native import KernelSettings, NativeKernel
from cloister.agent.interpreter.process import LaunchSpec

__all__ = ["KernelLauncher"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class KernelLauncher:
    """Starts kernels for one sandbox."""

    def __init__(self, state: SandboxState, drivers: Path, cgroup: Cgroup) -> None:
        self._state = state
        self._drivers = drivers
        self._cgroup = cgroup

    def start(self, language: Language, cwd: str) -> Kernel:
        """Start a kernel.

        Raises: InvalidRequestError (no such directory or user), UnavailableError.
        """
        document = self._state.document
        envs = dict(self._state.envs)
        spec = LaunchSpec(
            argv=language.argv(LanguageContext(self._drivers, document.limits.mem_mib)),
            env=self._environment(envs),
            cwd=cwd,
            user=document.kernel_user,
        )
        settings = KernelSettings(
            language=language.name,
            interrupt=language.interrupt,
            max_output_bytes=document.limits.output_mib << 20,
            mem_limit_mib=document.limits.mem_mib,
        )
        return NativeKernel(spec, settings, self._cgroup, envs)

    def envs_for(self, kernel: Kernel) -> dict[str, str]:
        """The sandbox's variables that have changed since the kernel was started."""
        return {name: value for name, value in self._state.envs.items() if kernel.envs.get(name) != value}

    def _environment(self, envs: Mapping[str, str]) -> dict[str, str]:
        document = self._state.document
        user = document.kernel_user
        try:
            home = pwd.getpwnam(user).pw_dir
        except KeyError:
            home = "/root" if user == "root" else "/"
        return {
            "PATH": _PATH,
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "LANG": "C.UTF-8",
            **envs,
            "E2B_SANDBOX": "true",
            "E2B_SANDBOX_ID": document.sandbox_id,
            "E2B_TEMPLATE_ID": document.template_id,
        }
