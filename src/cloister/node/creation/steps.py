"""The blocking steps of a creation. They run in worker threads; :mod:`cloister.node.creation.creator` puts them in order.

Each step registers its undo, so a step that fails leaves nothing of its sandbox. Invariant I8: after a step, the journal says what the
sandbox is, and without an entry there is no sandbox. A crash between two lines is undone by the next supervisor, from the journal.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cloister.agentclient.copies import become_copy
from cloister.agentclient.handover import hand_over
from cloister.errors import AgentUnreachableError, InvalidRequestError, IsolationError, NoCapacityError, PermissionDeniedError
from cloister.model.network import PUBLIC_EGRESS
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState, transition
from cloister.model.secret import reveal
from cloister.node.catalog import Catalog, ResolvedTemplate
from cloister.node.creation.pool import ReadySandbox
from cloister.node.journal import Journal
from cloister.node.memory_captures import WAY_OUT, MemoryCaptures
from cloister.node.memory_reserve import HostReserve
from cloister.node.origin import Origin, read_origin, write_origin
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.runtime.base import RuntimeSandbox
from cloister.runtime.registry import AUTO, Runtimes

__all__ = ["Created", "CreationSteps"]

_log = structlog.get_logger("cloister.node")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Created:
    """A sandbox whose agent serves."""

    record: SandboxRecord
    sandbox: RuntimeSandbox
    made_ahead: bool = False


class CreationSteps:
    """The steps, each on the runtime that the request names."""

    def __init__(self, runtimes: Runtimes, catalog: Catalog, journal: Journal, reserve: HostReserve, captures: MemoryCaptures) -> None:
        self._runtimes = runtimes
        self._catalog = catalog
        self._journal = journal
        self._reserve = reserve
        self._captures = captures

    @property
    def start_timeout_s(self) -> float:
        """How long a start command may take."""
        return self._catalog.start_timeout_s

    def resolve(self, template: str, team_id: str | None) -> ResolvedTemplate:
        """See :meth:`Catalog.resolve`."""
        return self._catalog.resolve(template, team_id)

    def has_room(self, template: ResolvedTemplate, runtime: str) -> bool:
        """Whether a sandbox of the template has, or can at once have, a zone."""
        return self._runtimes.find(runtime).has_room(template.zone_key)

    def choose_runtime(self, request: SandboxRequest, template: ResolvedTemplate) -> str:
        """The runtime of a new sandbox. A request that names it has it already. Raises: as :meth:`Runtimes.choose`; UnavailableError."""
        if not template.template.has_memory:
            return self._runtimes.choose(request.team_id, request.runtime, template.template.runtime).name
        saved = self._captures.find(template.build_id).runtime
        if request.runtime not in (None, AUTO, saved):
            raise InvalidRequestError(f"saved memory of a sandbox goes on in its runtime only, {saved!r}", hint=WAY_OUT)
        return self._runtimes.choose(request.team_id, saved).name

    def can_make_ahead(self, runtime: str) -> bool:
        """Whether a sandbox can be made before its request."""
        return self._runtimes.find(runtime).capabilities.hand_over

    def can_mount_later(self, runtime: str) -> bool:
        """Whether a sandbox that was made ahead can get volumes."""
        return self._runtimes.find(runtime).capabilities.late_volumes

    def make(self, request: SandboxRequest, template: ResolvedTemplate, *, is_for_client: bool = True) -> Created:
        """A new sandbox. Its record says ``running``, unless its start command is still on its way or it is made ahead.

        Raises: NoCapacityError, IsolationError, RuntimeFailedError; and as :meth:`_make_copy`.
        """
        if template.template.has_memory:
            return self._make_copy(request, template)
        begun = self._record(request, template)
        runtime = self._runtimes.find(begun.runtime)
        if not is_for_client:
            runtime.capabilities.require(runtime.name, "hand_over")
        if request.volumes:
            runtime.capabilities.require(runtime.name, "volumes")
        directory = self._journal.directory_of(request.sandbox_id)
        self._reserve.check(directory.parent)
        with _disk_full_refused(), ExitStack() as undo:
            undo.callback(self._journal.remove, request.sandbox_id)
            self._journal.write(begun, None)
            if is_for_client:
                write_origin(directory, Origin(template.template, request.envs))
            spec = self._catalog.spec(request, template, begun, directory)
            sandbox = runtime.create(spec, lambda state: self._journal.write(begun, state))
            undo.callback(sandbox.release)
            undo.callback(sandbox.kill)
            record = transition(begun, SandboxState.RUNNING) if is_for_client and sandbox.starting is None else begun
            self._journal.write(record, sandbox.state())
            undo.pop_all()
        return Created(record=record, sandbox=sandbox)

    def _make_copy(self, request: SandboxRequest, template: ResolvedTemplate) -> Created:
        """A new sandbox that goes on with the memory and the processes of a capture, as another one.

        Raises: PermissionDeniedError (the capture is another team's), InvalidRequestError (other limits are asked for), UnavailableError
        (it cannot be restored here), NoCapacityError, IsolationError, RuntimeFailedError.
        """
        if not request.team_id or request.team_id != template.template.given_by:
            raise PermissionDeniedError("the memory of a sandbox is for its own team alone", hint="snapshot its files: memory=false")
        if request.volumes:
            raise InvalidRequestError(
                "volumes cannot be mounted into the saved memory of a sandbox", hint="snapshot its files: memory=false"
            )
        if request.limits not in (None, template.limits):
            raise InvalidRequestError("a sandbox that goes on from saved memory has the limits of the one that was saved")
        begun, capture = self._record(request, template), self._captures.find(template.build_id)
        runtime = self._runtimes.find(begun.runtime)
        directory = self._journal.directory_of(request.sandbox_id)
        self._reserve.check(directory.parent, memory_bytes=capture.image_bytes, disk_bytes=capture.disk_bytes)
        document = self._catalog.init_document(request, template, begun)
        identity = CopiedSandbox(
            sandbox_id=request.sandbox_id,
            access_token=document.access_token,
            envs=document.envs,
            hostname=request.sandbox_id,
            ca_bundle=document.ca_bundle,
        )
        with _disk_full_refused(), ExitStack() as undo:
            undo.callback(self._journal.remove, request.sandbox_id)
            self._journal.write(begun, None)
            # It has a disk of its own from now on, and a start on that needs no capture.
            write_origin(directory, Origin(dataclasses.replace(template.template, has_memory=False), request.envs))
            spec = dataclasses.replace(self._catalog.spec(request, template, begun, directory), has_disk=True)
            with capture.explained():
                sandbox = runtime.restore(spec, capture.image, lambda state: self._journal.write(begun, state), capture.directory)
            undo.callback(sandbox.release)
            undo.callback(sandbox.kill)
            become_copy(sandbox.dial(), identity, capture.original_token)
            record = transition(begun, SandboxState.RUNNING)
            self._journal.write(record, sandbox.state())
            undo.pop_all()
        return Created(record=record, sandbox=sandbox)

    def hand_over(self, ready: ReadySandbox, request: SandboxRequest, template: ResolvedTemplate) -> Created | None:
        """Give a sandbox that was made ahead to its client. None: it does not fit or does not answer, and was discarded."""
        sandbox = ready.sandbox
        with ExitStack() as undo:
            undo.callback(self.discard, ready.sandbox_id, sandbox)
            begun = self._record(request, template)
            if not _fits(ready, begun, template):
                return None
            if request.volumes and not (sandbox.capabilities.late_volumes and self._mount_volumes(sandbox, begun, template)):
                return None
            try:
                # The document first: an agent that dies and comes back must still know its token.
                document = self._catalog.init_document(request, template, begun)
                sandbox.rewrite_init(document.to_json())
                sandbox.join_team(request.team_id)
                if request.egress != PUBLIC_EGRESS:
                    sandbox.set_egress(request.egress)
                write_origin(self._journal.directory_of(request.sandbox_id), Origin(template.template, request.envs))
                hand_over(sandbox.dial(), request.envs, reveal(request.access_token), document.ca_bundle)
                record = transition(begun, SandboxState.RUNNING)
                self._journal.write(record, sandbox.state())
            except (AgentUnreachableError, OSError) as error:
                _log.warning("pool.missed", sandbox_id=request.sandbox_id, error=str(error))
                return None
            undo.pop_all()
        return Created(record=record, sandbox=sandbox, made_ahead=True)

    def _mount_volumes(self, sandbox: RuntimeSandbox, begun: SandboxRecord, template: ResolvedTemplate) -> bool:
        """Whether the volumes are mounted. Raises: as :meth:`RuntimeSandbox.mount_volumes`; the caller discards the sandbox."""
        self._journal.write(begun, sandbox.state())  # first: after a crash it is known to hold them until it has ended
        try:
            return sandbox.mount_volumes(begun.volumes, has_run=template.template.starts_something)
        except IsolationError as error:
            if not sandbox.has_ended():
                raise
            _log.warning("pool.missed", sandbox_id=begun.sandbox_id, error=str(error))
            return False

    def origin(self, record: SandboxRecord) -> tuple[SandboxRequest, ResolvedTemplate]:
        """The request and the template that a sandbox was made of. Raises: RuntimeFailedError, TemplateNotFoundError: no agent."""
        origin = read_origin(self._journal.directory_of(record.sandbox_id))
        request = SandboxRequest(
            sandbox_id=record.sandbox_id,
            template=record.build_id or record.template,
            end_at=record.end_at,
            team_id=record.team_id,
            envs=origin.envs,
            access_token=record.access_token,
            runtime=record.runtime,
        )
        return request, self._catalog.resolved(origin.template, record.team_id)

    def start_again(
        self,
        record: SandboxRecord,
        origin: tuple[SandboxRequest, ResolvedTemplate],
        on_started: Callable[[dict[str, Any]], None],
        image: Path | None = None,
    ) -> RuntimeSandbox:
        """A sandbox as ``record`` has it, on the disk that is kept of it. Its start command may still be on its way.

        With an ``image`` it goes on with the memory and the processes that are saved there.
        Raises: NoCapacityError, IsolationError, RuntimeFailedError, UnavailableError (the image cannot be restored here); nothing is left
        then but the disk and the image.
        """
        directory = self._journal.directory_of(record.sandbox_id)
        self._reserve.check(directory.parent)
        spec = dataclasses.replace(self._catalog.spec(*origin, record, directory), has_disk=True)
        runtime = self._runtimes.find(record.runtime)
        with _disk_full_refused():
            return runtime.create(spec, on_started) if image is None else runtime.restore(spec, image, on_started)

    def take_start(self, created: Created, *, is_for_client: bool = True) -> Created:
        """Take the outcome of the start command, which is known. A sandbox for a client is ``running`` then.

        Raises: StartFailedError; the caller discards the sandbox.
        """
        created.sandbox.take_start()
        record = transition(created.record, SandboxState.RUNNING) if is_for_client else created.record
        self._journal.write(record, created.sandbox.state())
        return dataclasses.replace(created, record=record)

    def discard(self, sandbox_id: str, sandbox: RuntimeSandbox) -> None:
        """End a sandbox that no client has."""
        sandbox.kill()
        sandbox.release()
        self._journal.remove(sandbox_id)

    def prepare(self, request: SandboxRequest, template: ResolvedTemplate) -> None:
        """Prepare the zone and the zygotes of a template; may take long. ``request`` is only an example. Raises: as :meth:`make`."""
        directory = self._journal.directory_of(request.sandbox_id)
        record = self._record(request, template)
        self._runtimes.find(record.runtime).prepare(self._catalog.spec(request, template, record, directory))

    def _record(self, request: SandboxRequest, template: ResolvedTemplate) -> SandboxRecord:
        return SandboxRecord(
            sandbox_id=request.sandbox_id,
            template=template.template.template_id,
            build_id=template.build_id,
            team_id=request.team_id,
            runtime=self.choose_runtime(request, template),
            state=SandboxState.CREATING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=request.limits or template.limits,
            egress=request.egress,
            access_token=request.access_token,
            client=request.client,
            lifecycle=request.lifecycle,
            volumes=request.volumes,
        )


def _fits(ready: ReadySandbox, record: SandboxRecord, template: ResolvedTemplate) -> bool:
    """Whether a ready sandbox is what the request would get if it were made now."""
    # A start command may have used the internet already; a client that wants none gets a fresh sandbox.
    is_innocent = not record.egress.is_closed or not template.template.starts_something
    is_same = ready.build_id == template.build_id and ready.record.runtime == record.runtime and ready.record.limits == record.limits
    workdir = template.template.workdir  # a kernel that runs stands there, below what would be mounted over it
    is_clear = not any(f"{workdir}/".startswith(f"{one.path}/") for one in record.volumes)
    return is_innocent and is_same and ready.zone_key == template.zone_key and is_clear


@contextmanager
def _disk_full_refused() -> Iterator[None]:
    """Raises: NoCapacityError in place of an error that says that the disk is full."""
    try:
        yield
    except (IsolationError, OSError) as error:
        if error.errno not in _DISK_FULL:
            raise
        raise NoCapacityError("the server's disk is full", hint="free space in its data directory") from error
