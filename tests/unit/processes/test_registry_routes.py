"""The answer to a request for a paused sandbox: whether it wakes the sandbox, and the remedy."""

from __future__ import annotations

from typing import cast

import pytest

from cloister.control.registry import Registry
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind, TimeoutAction
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.processes.api_routes import RegistryRoutes
from cloister.proxy.routes import Asleep


class OneSandbox:
    """A registry with one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def live(self, _sandbox_id: str) -> Sandbox:
        """See Registry."""
        return self.sandbox


@pytest.mark.parametrize(
    ("kind", "wake_s", "wakes", "remedy"),
    [
        (PauseKind.FROZEN, 300, True, "/connect"),
        (PauseKind.FROZEN, None, False, "or choose auto-resume at its creation"),
        (PauseKind.FILES, None, False, "or choose auto-resume at its creation"),
        (PauseKind.FILES, 300, False, "because only its files were kept"),
    ],
)
def test_the_remedy_fits_the_pause(kind: PauseKind, wake_s: int | None, wakes: bool, remedy: str) -> None:
    """Auto-resume is not proposed for a sandbox that has it."""
    lifecycle = Lifecycle(on_timeout=TimeoutAction.PAUSE, wake_s=wake_s)
    paused = Sandbox(
        sandbox_id="i1",
        team_id="t",
        template_id="tpl",
        template="base",
        state=SandboxState.PAUSED,
        started_at=0,
        end_at=1e10,
        cpu_count=1,
        mem_mib=1,
        disk_mib=1,
        lifecycle=lifecycle,
        pause=Pause(kind=kind, at=1),
    )
    found = RegistryRoutes(cast("Registry", OneSandbox(paused))).find("i1")
    assert isinstance(found, Asleep)
    assert found.wakes is wakes
    assert found.why.startswith("is paused: resume it by Sandbox.connect()")
    assert found.why.endswith(remedy)
