"""Starts the sandbox's kernels: takes user, environment, directory and bounds from the init document.

This is the only module that makes a kernel of a language.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Mapping
from pathlib import Path

from cloister.agent.accounts import Account, find_account
from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.adopted import adopt
from cloister.agent.interpreter.driver_kernel import DriverKernel, KernelSettings
from cloister.agent.interpreter.kernel import Kernel
from cloister.agent.interpreter.kernelspecs import find_kernelspecs, kernelspec_directories
from cloister.agent.interpreter.languages import Language, LanguageContext
from cloister.agent.interpreter.process import BridgedProcess, LaunchSpec, StartedProcess
from cloister.agent.orphans import Orphans
from cloister.agent.state import AgentState
from cloister.errors import AuthenticationError, InvalidRequestError, UnavailableError
from cloister.protocol.agent import DEFAULT_PATH

__all__ = ["KernelLauncher"]

_LOG = logging.getLogger(__name__)
_ADOPTED_READY_S = 10.0


class KernelLauncher:
    """Starts kernels for one sandbox."""

    def __init__(self, state: AgentState, drivers: Path, cgroup: Cgroup) -> None:
        self.state = state
        self._drivers = drivers
        self.cgroup = cgroup

    def start(self, language: Language, cwd: str) -> Kernel:
        """Start a kernel.

        Raises: InvalidRequestError (no such directory or user), UnavailableError.
        """
        envs = dict(self.state.envs)
        start = BridgedProcess if language.interrupt == "bridge" else StartedProcess
        return DriverKernel(start(self._spec(language, cwd, envs)), self._settings(language), self.cgroup, envs)

    def kernelspecs(self) -> list[Language]:
        """The Jupyter kernels that are installed at this moment; none in the agent's zygote, which has no sandbox."""
        if not self.state.document.sandbox_id:
            return []
        homes = []
        for name in dict.fromkeys((self.state.document.kernel_user, self.state.document.user)):
            with contextlib.suppress(AuthenticationError):
                homes.append(find_account(name).home)
        return find_kernelspecs(kernelspec_directories(self.state.envs, self.state.envs.get("PATH", DEFAULT_PATH), homes))

    async def adopt(self, channel: socket.socket, orphans: Orphans, language: Language, cwd: str) -> Kernel:
        """A kernel that is ready: the one forked at the other end of ``channel``, or a started one if that cannot be adopted.

        Raises: InvalidRequestError (no such directory or user), UnavailableError.
        """
        envs = dict(self.state.envs)
        try:
            process = await adopt(channel, self._spec(language, cwd, envs), orphans)
        except UnavailableError as error:
            _LOG.info("%s; one is started", error)
        else:
            adopted = DriverKernel(process, self._settings(language), self.cgroup, envs)
            try:
                await adopted.wait_ready(_ADOPTED_READY_S)
            except UnavailableError as error:
                await adopted.close()
                _LOG.warning("%s (it was forked; one is started)", error)
            except BaseException:
                await adopted.close()
                raise
            else:
                return adopted
        kernel = self.start(language, cwd)
        try:
            await kernel.wait_ready()
        except BaseException:
            await kernel.close()
            raise
        return kernel

    def envs_for(self, kernel: Kernel) -> dict[str, str]:
        """The sandbox's variables that have changed since the kernel's start; in a copy of a sandbox, its own id too."""
        changed = {name: value for name, value in self.state.envs.items() if kernel.envs.get(name) != value}
        return changed | {"E2B_SANDBOX_ID": self.state.document.sandbox_id} if self.state.is_copy else changed

    def _spec(self, language: Language, cwd: str, envs: Mapping[str, str]) -> LaunchSpec:
        document = self.state.document
        try:
            account = find_account(document.kernel_user)
        except AuthenticationError:
            raise InvalidRequestError(f"The kernels' user '{document.kernel_user}' does not exist in this sandbox") from None
        argv = language.argv(LanguageContext(self._drivers, document.limits.mem_mib, document.programs))
        return LaunchSpec(argv=argv, env=self._environment(envs, account), cwd=cwd, account=account)

    def _settings(self, language: Language) -> KernelSettings:
        limits = self.state.document.limits
        return KernelSettings(
            language=language.name,
            interrupt=language.interrupt,
            renews=language.renews,
            max_output_bytes=limits.output_mib << 20,
            mem_limit_mib=limits.mem_mib,
        )

    def _environment(self, envs: Mapping[str, str], account: Account) -> dict[str, str]:
        document = self.state.document
        return {
            "PATH": DEFAULT_PATH,
            "HOME": account.home,
            "USER": account.name,
            "LOGNAME": account.name,
            "LANG": "C.UTF-8",
            **envs,
            "E2B_SANDBOX": "true",
            "E2B_SANDBOX_ID": document.sandbox_id,
            "E2B_TEMPLATE_ID": document.template_id,
        }
