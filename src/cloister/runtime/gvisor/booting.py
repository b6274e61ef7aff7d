"""The calls to the agent by which a saved sandbox is made, and becomes another one.

Runs in: supervisor and builds, in worker threads. Needs: nothing.
"""

from __future__ import annotations

import http.client
import json

from cloister.agentclient.copies import become_copy
from cloister.agentclient.post import post
from cloister.errors import RuntimeFailedError
from cloister.protocol.agent import INTERPRETER_PORT
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.init_document import InitDocument
from cloister.protocol.kernels_ahead import KernelOrder
from cloister.runtime.gvisor.sandbox import GvisorSandbox
from cloister.runtime.spec import SandboxSpec

__all__ = ["become", "start_kernels", "wait_for_kernel"]

_KERNEL_TIMEOUT_S = 60.0


def wait_for_kernel(sandbox: GvisorSandbox) -> None:
    """Until the default Python kernel runs; an empty cell leaves no trace in it. Raises: RuntimeFailedError."""
    dialled = sandbox.dial()
    connection = http.client.HTTPConnection("sandbox")
    try:
        with dialled.socket as sock:
            sock.settimeout(_KERNEL_TIMEOUT_S)
            sock.connect((dialled.hosts[0], INTERPRETER_PORT))
            connection.sock = sock
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request("POST", "/execute", json.dumps({"code": "", "language": "python"}), headers)
            with connection.getresponse() as response:
                answer = response.read(1 << 16)
                if response.status != http.client.OK or b'"error"' in answer:
                    raise RuntimeFailedError(f"the kernel of a booted template does not run: {answer[:200]!r}")
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeFailedError(f"the kernel of a booted template does not run: {error}") from error


def start_kernels(sandbox: GvisorSandbox, languages: tuple[str, ...]) -> None:
    """Have kernels of these languages ready. Raises: AgentUnreachableError, RuntimeFailedError."""
    order = KernelOrder(languages)
    headers = {"Content-Type": "application/json"}
    with post(sandbox.dial(), "/kernels", order.to_json(), headers, _KERNEL_TIMEOUT_S, whole_s=_KERNEL_TIMEOUT_S) as response:
        if response.status != http.client.NO_CONTENT:
            raise RuntimeFailedError(f"the kernels of a booted template do not start: {response.read(1 << 16)!r}")


def become(sandbox: GvisorSandbox, spec: SandboxSpec) -> None:
    """Make a restored sandbox the one of ``spec``: id, token, variables, names, random numbers. Raises: AgentUnreachableError."""
    document = InitDocument.from_json(spec.init_document)
    copy = CopiedSandbox(
        sandbox_id=document.sandbox_id,
        access_token=document.access_token,
        envs=document.envs,
        hostname=spec.hostname,
        ca_bundle=document.ca_bundle,
    )
    become_copy(sandbox.dial(), copy, None)
