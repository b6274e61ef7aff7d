"""How a sandbox comes to be: made for a request, made ahead for nobody, or handed over. Blocking: runs in worker threads.

Each way ends with a journal entry that says ``running`` or with nothing left at all (I8). Where the template starts something, a creation
has two halves, between which nobody blocks a thread: :meth:`Creator.create`, and :meth:`Creator.finish` when that is up or has failed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import ExitStack

import structlog

from cloister.errors import AgentUnreachableError, InvalidRequestError
from cloister.ids import new_sandbox_id
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.agent_client import hand_over
from cloister.node.catalog import Catalog, check_capacity
from cloister.node.journal import Journal
from cloister.node.pool import Pooled
from cloister.runtime.base import Runtime, RuntimeSandbox

__all__ = ["Creator"]

_log = structlog.get_logger("cloister.node")


class Creator:
    """Creates sandboxes on one runtime."""

    def __init__(self, runtime: Runtime, catalog: Catalog, journal: Journal, disk_reserve_mib: int) -> None:
        self._runtime = runtime
        self._catalog = catalog
        self._journal = journal
        self._disk_reserve_mib = disk_reserve_mib

    def create(self, request: SandboxRequest, pooled: Pooled | None) -> tuple[SandboxRecord, RuntimeSandbox]:
        """A sandbox for the request: ``pooled`` when it fits and answers, else a new one. It runs, unless it is still ``starting``.

        Raises: InvalidRequestError, TemplateNotFoundError, NoCapacityError, IsolationError, RuntimeFailedError.
        """
        if request.runtime not in (None, self._runtime.name):
            raise InvalidRequestError(f"runtime {request.runtime!r} is not available on this node", hint=f"available: {self._runtime.name}")
        template = self._catalog.find(request.template)
        record = self._record(request, template)
        if pooled is not None and (taken := self._take(pooled, request, template, record)) is not None:
            return taken
        return self._make(request, template, record)

    def prepare(self, template: str) -> None:
        """Have what makes creations from a template quick, or find that it cannot be had; may take long. Raises: as :meth:`create`."""
        found = self._catalog.find(template)
        request = SandboxRequest(sandbox_id=new_sandbox_id(), template=template, end_at=0.0)
        directory = self._journal.directory_of(request.sandbox_id)
        self._runtime.prepare(self._catalog.spec(request, found, self._record(request, found), directory))

    def make_ahead(self, template: str, sandbox_id: str) -> Pooled:
        """A sandbox for nobody yet, with the template's own limits and variables. It may be ``starting``. Raises: as :meth:`create`."""
        found = self._catalog.find(template)
        request = SandboxRequest(sandbox_id=sandbox_id, template=template, end_at=0.0)
        record, sandbox = self._make(request, found, self._record(request, found), runs=False)
        return Pooled(record, sandbox, found.build_id)

    def finish(self, record: SandboxRecord, sandbox: RuntimeSandbox, *, runs: bool = True) -> SandboxRecord:
        """What the template starts is up, or not: then nothing is left of the sandbox. ``runs``: as it does for a client.

        Raises: StartFailedError.
        """
        final = dataclasses.replace(record, state=SandboxState.RUNNING) if runs else record
        try:
            sandbox.take_start()
            self._journal.write(final, sandbox.state())
        except BaseException:
            self.discard(record.sandbox_id, sandbox)
            raise
        return final

    def discard(self, sandbox_id: str, sandbox: RuntimeSandbox) -> None:
        """End a sandbox that is nobody's."""
        sandbox.kill()
        sandbox.release()
        self._journal.remove(sandbox_id)

    def _record(self, request: SandboxRequest, template: Template) -> SandboxRecord:
        return SandboxRecord(
            sandbox_id=request.sandbox_id,
            template=template.template_id,
            build_id=template.build_id,
            runtime=self._runtime.name,
            state=SandboxState.CREATING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=request.limits or self._catalog.limits(template),
            allow_internet=request.allow_internet,
            attributes=request.attributes,
        )

    def _make(
        self, request: SandboxRequest, template: Template, record: SandboxRecord, *, runs: bool = True
    ) -> tuple[SandboxRecord, RuntimeSandbox]:
        directory = self._journal.directory_of(request.sandbox_id)
        check_capacity(directory.parent, self._disk_reserve_mib)
        with ExitStack() as undo:
            undo.callback(self._journal.remove, request.sandbox_id)
            self._journal.write(record, None)
            spec = self._catalog.spec(request, template, record, directory)
            sandbox = self._runtime.create(spec, lambda state: self._journal.write(record, state))
            undo.callback(sandbox.release)
            undo.callback(sandbox.kill)
            runs = runs and sandbox.starting is None
            final = dataclasses.replace(record, state=SandboxState.RUNNING) if runs else record
            self._journal.write(final, sandbox.state())
            undo.pop_all()
        return final, sandbox

    def _take(
        self, pooled: Pooled, request: SandboxRequest, template: Template, record: SandboxRecord
    ) -> tuple[SandboxRecord, RuntimeSandbox] | None:
        """Hand ``pooled`` over; None, and nothing of it left, when it does not fit or does not answer."""
        # What a template starts may have used the internet ahead of a request that must have none: only a fresh sandbox has not.
        is_innocent = request.allow_internet or not template.starts_something
        if pooled.build_id == template.build_id and pooled.record.limits == record.limits and is_innocent:
            try:
                # The document first: an agent that dies and comes back must still know its token.
                pooled.sandbox.rewrite_init(json.dumps(self._catalog.init_document(request, template, record)).encode())
                if not request.allow_internet:
                    pooled.sandbox.set_internet(False)
                hand_over(pooled.sandbox.dial(), request.envs, request.access_token)
                record = dataclasses.replace(record, state=SandboxState.RUNNING)
                self._journal.write(record, pooled.sandbox.state())
            except (AgentUnreachableError, OSError) as error:
                _log.warning("pool.missed", sandbox_id=request.sandbox_id, error=str(error))
            else:
                return record, pooled.sandbox
        self.discard(pooled.record.sandbox_id, pooled.sandbox)
        return None
