"""Tries checkpoints on this host: saves a throw-away sandbox, ends it, restores it, and asks its agent whether it still serves.

A version or a kernel feature proves little: the same CRIU works on one kernel and fails on the next.
Runs in: supervisor, before sandboxes of clients. Needs: root.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cloister.errors import RuntimeFailedError
from cloister.protocol.agent import AGENT_PORT
from cloister.runtime.base import Runtime, RuntimeSandbox
from cloister.runtime.spec import SandboxSpec

__all__ = ["dump_and_restore"]

_ANSWER_TIMEOUT_S = 10.0
_ATTEMPTS = 5
_REQUEST = b"GET /health HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n"


def dump_and_restore(runtime: Runtime, spec: SandboxSpec) -> None:
    """Do it; nothing is left, whatever happens. Raises: RuntimeFailedError and others, which say what failed."""
    image = spec.directory / "image"
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, spec.directory, ignore_errors=True)
        shutil.rmtree(spec.directory, ignore_errors=True)
        spec.directory.mkdir(mode=0o700, parents=True)
        runtime.prepare(spec)  # processes that are forked from zygotes are the harder part
        with ExitStack() as first:
            sandbox = runtime.create(spec, lambda _state: None)
            first.callback(sandbox.release)
            first.callback(sandbox.kill)
            _save(sandbox, image)
            sandbox.kill()
            sandbox.keep_disk()
        restored = runtime.restore(replace(spec, has_disk=True), image, lambda _state: None)
        undo.callback(restored.release)
        undo.callback(restored.kill)
        ask_agent(restored)


def _save(sandbox: RuntimeSandbox, image: Path) -> None:
    """While a new agent takes its first kernel over, a credential is on its way between them, which CRIU does not save: try again then."""
    for left in range(_ATTEMPTS, 0, -1):
        ask_agent(sandbox)
        sandbox.freeze()
        try:
            sandbox.checkpoint(image)
        except RuntimeFailedError:
            if left == 1:
                raise
            sandbox.thaw()
        else:
            return


def ask_agent(sandbox: RuntimeSandbox) -> None:
    """Ask the agent over HTTP whether it serves. Raises: RuntimeFailedError."""
    try:
        dialled = sandbox.dial()
        with dialled.socket as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.connect((dialled.hosts[0], AGENT_PORT))
            connection.sendall(_REQUEST)
            answer = connection.recv(64)
    except OSError as error:
        raise RuntimeFailedError(f"the agent of the probe does not answer: {error}") from error
    if not answer.startswith(b"HTTP/1.1 2"):
        raise RuntimeFailedError(f"the agent of the probe answers {answer[:20]!r}")
