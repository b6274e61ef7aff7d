"""Each step of a creation leaves a sandbox that the journal knows, or nothing."""

from __future__ import annotations

import errno
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import (
    AgentUnreachableError,
    InvalidRequestError,
    IsolationError,
    NoCapacityError,
    PermissionDeniedError,
    RuntimeFailedError,
    StartFailedError,
)
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.model.secret import Secret
from cloister.model.template import Template
from cloister.model.volume import VolumeMount
from cloister.node.catalog import ResolvedTemplate
from cloister.node.creation import steps as steps_module
from cloister.node.creation.pool import PoolKey, ReadySandbox
from cloister.node.creation.steps import Created, CreationSteps
from cloister.node.journal import Found, Journal
from cloister.node.memory_reserve import HostReserve, MemoryReserve
from cloister.node.origin import Origin, has_origin, read_origin
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.dialled import Dialled
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.registry import Runtimes
from cloister.runtime.spec import AgentTree, SandboxSpec, Sharing

NO_RESERVE = HostReserve(0, MemoryReserve(0))
TEMPLATE = Template(template_id="t1", name="t", build_id="b1", layers=(), authors=())
FOUND = ResolvedTemplate(
    template=TEMPLATE, agent=AgentTree(interpreter=(), agent=Path("agent")), zone_key="z1", zone_team="", limits=Limits(mem_mib=333)
)
REQUEST = SandboxRequest(sandbox_id="s1", template="t", end_at=time.time() + 60, team_id="one")


class FakeSandbox:
    """Notes what is done to it."""

    cold: tuple[str, ...] = ()
    capabilities = RuntimeCapabilities(hand_over=True, volumes=True, late_volumes=True)

    def __init__(self) -> None:
        self.fits = True
        self.log: list[str] = []
        self.starting: int | None = None
        self.fault: Exception | None = None

    def state(self) -> dict[str, Any]:
        """What an adoption needs, or a fault."""
        if self.fault is not None:
            raise self.fault
        return {"pid": 1}

    def rewrite_init(self, _document: bytes) -> None:
        """Note it."""
        self.log.append("rewrite_init")

    def set_egress(self, _policy: object) -> None:
        """Note it."""
        self.log.append("set_egress")

    def join_team(self, team_id: str) -> None:
        """Note it."""
        self.log.append(f"join {team_id}")

    def mount_volumes(self, volumes: tuple[VolumeMount, ...], *, has_run: bool) -> bool:
        """Note it."""
        self.log.append(f"mount {volumes[0].path} {has_run}")
        return self.fits

    def dial(self) -> Dialled:
        """No socket is needed: the hand-over is a fake."""
        return cast("Dialled", None)

    def take_start(self) -> None:
        """The start command failed, when the test says so."""
        if self.fault is not None:
            raise self.fault

    def kill(self) -> None:
        """Note it."""
        self.log.append("kill")

    def release(self) -> None:
        """Note it."""
        self.log.append("release")


class FakeRuntime:
    """Creates one sandbox, or fails."""

    name = "fake"
    capabilities = RuntimeCapabilities(hand_over=True)

    def __init__(self) -> None:
        self.sandbox = FakeSandbox()
        self.fault: Exception | None = None

    def create(self, spec: Any, on_started: Any) -> FakeSandbox:
        """See :class:`Runtime`."""
        self.spec: SandboxSpec = spec
        if self.fault is not None:
            raise self.fault
        on_started({"pid": 1})
        return self.sandbox


class Lab:
    """The steps on a fake runtime, with a real journal."""

    def __init__(self, directory: Path) -> None:
        self.journal = Journal(directory / "j", directory / "copies")
        self.journal.open()
        self.runtime = FakeRuntime()
        self.captures: Any = SimpleNamespace()
        document = SimpleNamespace(to_json=lambda: b"{}", access_token="own", envs={"A": "1"}, ca_bundle="")
        spec = SandboxSpec(sandbox_id="s1", sharing=Sharing(key=""), directory=directory, layers=(), agent=None, limits=Limits())
        catalog = SimpleNamespace(
            spec=lambda *_: spec,
            init_document=lambda *_: document,
            resolved=lambda template, _team: replace(FOUND, template=template),
            start_timeout_s=5.0,
        )
        runtimes = Runtimes([cast("Any", self.runtime)], "fake")
        self.steps = CreationSteps(runtimes, cast("Any", catalog), self.journal, NO_RESERVE, cast("Any", self.captures))

    def states(self) -> dict[str, SandboxState]:
        """What the journal says."""
        return {entry.record.sandbox_id: entry.record.state for entry in self.journal.entries().entries}

    def ready(self, **changes: Any) -> ReadySandbox:
        """A sandbox made ahead, as the pool holds it."""
        made = self.steps.make(REQUEST, FOUND, is_for_client=False)
        fields = {"key": PoolKey("t1"), "build_id": "b1", "zone_key": "z1", "record": made.record, "sandbox": made.sandbox}
        return ReadySandbox(**{**fields, **changes})


def record_of(lab: Lab) -> SandboxRecord:
    """The journal's record of the only sandbox."""
    (entry,) = lab.journal.entries().entries
    return entry.record


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab whose host has room and whose agents answer."""
    monkeypatch.setattr(steps_module, "hand_over", lambda *_: None)
    return Lab(tmp_path)


def test_sandbox_for_a_client_runs_and_has_the_templates_limits(lab: Lab) -> None:
    """The journal says so when the step returns."""
    made = lab.steps.make(REQUEST, FOUND)
    assert lab.states() == {"s1": SandboxState.RUNNING}
    assert (made.record.limits.mem_mib, made.record.runtime, made.made_ahead) == (333, "fake", False)


@pytest.mark.parametrize("is_for_client", [True, False])
def test_sandbox_whose_start_is_awaited_is_a_creation_under_way(lab: Lab, *, is_for_client: bool) -> None:
    """So a supervisor that starts after a crash ends it. One for a client runs once its start command is up."""
    lab.runtime.sandbox.starting = 7
    made = lab.steps.make(REQUEST, FOUND, is_for_client=is_for_client)
    assert lab.states() == {"s1": SandboxState.CREATING}
    lab.steps.take_start(made, is_for_client=is_for_client)
    assert lab.states() == {"s1": SandboxState.RUNNING if is_for_client else SandboxState.CREATING}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (IsolationError("a step failed", step="mounts"), IsolationError),
        (OSError(errno.ENOSPC, "full"), NoCapacityError),
        (OSError(errno.EIO, "broken"), OSError),
    ],
)
def test_failure_of_the_runtime_leaves_no_entry(lab: Lab, fault: Exception, told: type[Exception]) -> None:
    """A full disk is a want of capacity; other faults keep their name."""
    lab.runtime.fault = fault
    with pytest.raises(told):
        lab.steps.make(REQUEST, FOUND)
    assert lab.journal.entries() == Found()


def test_failure_after_the_runtime_ends_the_sandbox(lab: Lab) -> None:
    """Its processes first, then what it held, then its entry."""
    lab.runtime.sandbox.fault = OSError(errno.ENOSPC, "full")
    with pytest.raises(NoCapacityError):
        lab.steps.make(REQUEST, FOUND)
    assert lab.runtime.sandbox.log == ["kill", "release"]
    assert lab.journal.entries() == Found()


def test_start_that_failed_changes_no_state(lab: Lab) -> None:
    """The creator discards the sandbox, whose entry still says that it is being created."""
    lab.runtime.sandbox.starting = 7
    made = lab.steps.make(REQUEST, FOUND)
    lab.runtime.sandbox.fault = StartFailedError("it died")
    with pytest.raises(StartFailedError):
        lab.steps.take_start(made)
    assert lab.states() == {"s1": SandboxState.CREATING}


def test_ready_sandbox_becomes_the_clients(lab: Lab) -> None:
    """The init document comes first: an agent that dies and comes back must know its token."""
    handed = lab.steps.hand_over(lab.ready(), replace(REQUEST, egress=NO_EGRESS), FOUND)
    assert isinstance(handed, Created)
    assert handed.made_ahead
    assert lab.runtime.sandbox.log == ["rewrite_init", "join one", "set_egress"]
    assert lab.states() == {"s1": SandboxState.RUNNING}


@pytest.mark.parametrize(
    ("changes", "request_changes", "found"),
    [
        ({"build_id": "b0"}, {}, FOUND),
        ({"zone_key": "z0"}, {}, FOUND),
        ({}, {"limits": Limits(mem_mib=444)}, FOUND),
        ({}, {"egress": NO_EGRESS}, replace(FOUND, template=replace(TEMPLATE, start_cmd="serve"))),
    ],
    ids=["an older build", "another zone", "other limits", "it may have used the internet"],
)
def test_ready_sandbox_that_does_not_fit_is_ended(
    lab: Lab, changes: dict[str, Any], request_changes: dict[str, Any], found: ResolvedTemplate
) -> None:
    """The client gets what it would get if no sandbox were ready."""
    assert REQUEST.egress == PUBLIC_EGRESS
    assert lab.steps.hand_over(lab.ready(**changes), replace(REQUEST, **request_changes), found) is None
    assert lab.runtime.sandbox.log == ["kill", "release"]
    assert lab.journal.entries() == Found()


def volumes_at(path: str) -> tuple[VolumeMount, ...]:
    """One volume."""
    return (VolumeMount(volume_id="6a3d9c1e-0000-4000-8000-000000000001", name="v", path=path),)


def test_ready_sandbox_gets_the_clients_volumes(lab: Lab) -> None:
    """Before it has an owner, so that a failure leaves nothing. The record has them."""
    started = replace(FOUND, template=replace(TEMPLATE, start_cmd="serve"))
    handed = lab.steps.hand_over(lab.ready(), replace(REQUEST, volumes=volumes_at("/v")), started)
    assert isinstance(handed, Created)
    assert lab.runtime.sandbox.log[0] == "mount /v True"
    assert record_of(lab).volumes == volumes_at("/v")


@pytest.mark.parametrize(("path", "tried"), [("/v", True), ("/home/user", False), ("/home", False), ("/home/user/data", True)])
def test_ready_sandbox_whose_programs_may_stand_below_a_volume_is_ended(lab: Lab, path: str, *, tried: bool) -> None:
    """Another one is made, which has its volumes before a program runs."""
    lab.runtime.sandbox.fits = False
    assert lab.steps.hand_over(lab.ready(), replace(REQUEST, volumes=volumes_at(path)), FOUND) is None
    assert lab.runtime.sandbox.log == [*([f"mount {path} False"] if tried else []), "kill", "release"]
    assert lab.journal.entries() == Found()


def test_ready_sandbox_that_does_not_answer_is_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one can be made then."""

    def refuse(*_: object) -> None:
        raise AgentUnreachableError("no answer")

    monkeypatch.setattr(steps_module, "hand_over", refuse)
    assert lab.steps.hand_over(lab.ready(), REQUEST, FOUND) is None
    assert lab.runtime.sandbox.log[-2:] == ["kill", "release"]
    assert lab.journal.entries() == Found()


def test_runtime_that_the_node_has_not_is_refused(lab: Lab) -> None:
    """The message names those that it has."""
    with pytest.raises(InvalidRequestError, match="'other' is not available"):
        lab.steps.choose_runtime(replace(REQUEST, runtime="other"), FOUND)


@pytest.mark.parametrize("ahead", [False, True])
def test_the_origin_of_a_sandbox_is_kept(lab: Lab, ahead: bool) -> None:
    """Whether it was made for its client or ahead: the template and the client's variables are there before it has an owner."""
    request = replace(REQUEST, envs={"NAME": "value"})
    if ahead:
        ready = lab.ready()
        assert not has_origin(lab.journal.directory_of("s1"))
        assert lab.steps.hand_over(ready, request, FOUND) is not None
    else:
        lab.steps.make(request, FOUND)
    assert read_origin(lab.journal.directory_of("s1")) == Origin(TEMPLATE, {"NAME": "value"})


def test_a_start_on_a_kept_disk_is_as_the_creation_was(lab: Lab) -> None:
    """The same variables, token and limits; the disk that is there. A failure leaves the directory of the sandbox."""
    made = lab.steps.make(replace(REQUEST, envs={"NAME": "value"}, access_token=Secret("token")), FOUND)
    request, template = lab.steps.origin(made.record)
    assert (request.envs, request.access_token, request.team_id) == ({"NAME": "value"}, Secret("token"), "one")
    assert template.template == TEMPLATE
    states: list[dict[str, Any]] = []
    assert lab.steps.start_again(made.record, (request, template), states.append) is cast("Any", lab.runtime.sandbox)
    assert lab.runtime.spec.has_disk
    assert states == [{"pid": 1}]
    lab.runtime.fault = IsolationError("full", errno=errno.ENOSPC)
    with pytest.raises(NoCapacityError):
        lab.steps.start_again(made.record, (request, template), states.append)
    assert record_of(lab) == made.record


def test_an_origin_that_is_gone_is_an_error(lab: Lab) -> None:
    """It names the sandbox; so is one of a newer release."""
    made = lab.steps.make(REQUEST, FOUND)
    path = lab.journal.directory_of("s1") / "origin.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(RuntimeFailedError, match="format 2"):
        lab.steps.origin(made.record)
    path.unlink()
    with pytest.raises(RuntimeFailedError, match="s1"):
        lab.steps.origin(made.record)


# ---- with memory ----


class FakeCapture:
    """A capture of which :class:`Lab` makes copies."""

    image, directory, image_bytes, disk_bytes, original_token = Path("image"), Path("capture"), 7, 9, "original"
    runtime = "fake"
    explained = staticmethod(nullcontext)


def copying(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[tuple[CopiedSandbox, str | None]]:
    """Let the lab have a capture; gives the identities that agents are told."""
    told: list[tuple[CopiedSandbox, str | None]] = []
    lab.captures.find = lambda _build_id: FakeCapture()

    def restore(spec: SandboxSpec, image: Path, on_started: Any, disk_from: Path) -> FakeSandbox:
        assert (image, disk_from, spec.has_disk) == (FakeCapture.image, FakeCapture.directory, True)
        return lab.runtime.create(spec, on_started)

    monkeypatch.setattr(lab.runtime, "restore", restore, raising=False)
    monkeypatch.setattr(steps_module, "become_copy", lambda _sock, copy, original: told.append((copy, original)))
    return told


CAPTURED = replace(FOUND, template=replace(TEMPLATE, has_memory=True, given_by="one"))


def test_a_copy_of_memory_learns_who_it_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has an owner; its origin is a template without memory, because it has a disk of its own."""
    told = copying(lab, monkeypatch)
    made = lab.steps.make(replace(REQUEST, access_token=Secret("own")), CAPTURED)
    assert made.record.state is SandboxState.RUNNING
    assert told == [(CopiedSandbox(sandbox_id="s1", access_token="own", envs={"A": "1"}, hostname="s1"), "original")]
    assert not read_origin(lab.journal.directory_of("s1")).template.has_memory


def test_a_copy_that_does_not_learn_it_is_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No client may reach it by the tokens of the original."""
    copying(lab, monkeypatch)

    def silent(*_: object) -> None:
        raise AgentUnreachableError("no answer")

    monkeypatch.setattr(steps_module, "become_copy", silent)
    with pytest.raises(AgentUnreachableError):
        lab.steps.make(REQUEST, CAPTURED)
    assert lab.runtime.sandbox.log == ["kill", "release"]
    assert lab.journal.entries() == Found()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (replace(REQUEST, team_id="two"), PermissionDeniedError),
        (replace(REQUEST, team_id=""), PermissionDeniedError),
        (replace(REQUEST, limits=Limits(mem_mib=334)), InvalidRequestError),
    ],
)
def test_memory_is_for_its_own_team_with_its_own_limits(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, request_: SandboxRequest, error: type[Exception]
) -> None:
    """Nothing is made for another one."""
    told = copying(lab, monkeypatch)
    with pytest.raises(error):
        lab.steps.make(request_, CAPTURED)
    assert (told, lab.journal.entries()) == ([], Found())


def test_memory_goes_on_in_its_own_runtime(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for another one is refused, and so is a capture of a runtime that this node has not; ``auto`` means the saved one."""
    told = copying(lab, monkeypatch)
    with pytest.raises(InvalidRequestError, match="goes on in its runtime only, 'fake'"):
        lab.steps.make(replace(REQUEST, runtime="other"), CAPTURED)
    monkeypatch.setattr(FakeCapture, "runtime", "gone")
    with pytest.raises(InvalidRequestError, match="'gone' is not available"):
        lab.steps.make(replace(REQUEST, runtime="auto"), CAPTURED)
    assert (told, lab.journal.entries()) == ([], Found())
    monkeypatch.setattr(FakeCapture, "runtime", "fake")
    assert lab.steps.make(replace(REQUEST, runtime="auto"), CAPTURED).record.runtime == "fake"


def test_the_template_chooses_when_the_request_does_not(lab: Lab) -> None:
    """By a variable of its environment."""
    wishes = replace(FOUND, template=replace(TEMPLATE, envs={"CLOISTER_RUNTIME": "other"}))
    with pytest.raises(InvalidRequestError, match="'other' is not available"):
        lab.steps.choose_runtime(REQUEST, wishes)
    assert lab.steps.choose_runtime(replace(REQUEST, runtime="fake"), wishes) == "fake"


def test_a_capture_of_no_team_is_for_no_client(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that names no team is not taken for that of a request without one."""
    copying(lab, monkeypatch)
    with pytest.raises(PermissionDeniedError):
        lab.steps.make(replace(REQUEST, team_id=""), replace(CAPTURED, template=replace(TEMPLATE, has_memory=True)))
