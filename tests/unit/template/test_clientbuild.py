"""One build over fake build sandboxes: its order, its cache, what it hands on, and how it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import BuildError, NoCapacityError, RuntimeFailedError, TemplateNotFoundError
from cloister.model.build import BuildRequest, BuildStep, ImageSource, UploadedArchive
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.template.building.clientbuild import ClientBuildParts, build_client_template
from cloister.template.interfaces import BaseImage, ShellCommand
from cloister.template.layers import LayerStore
from framework.fake_build_sandboxes import FakeBuildSandboxes, FakeCancellation, FakeImages, RecordedLog, add_layer, no_parents

_BASE = "b" * 64
_IMAGE = ImageSource(reference="python:3")


def run_step(command: str, *user: str, force: bool = False) -> BuildStep:
    """A RUN."""
    return BuildStep(kind="RUN", args=(command, *user), force=force)


def step(kind: str, *args: str) -> BuildStep:
    """Any other step without files."""
    return BuildStep(kind=kind, args=args)


def copy_step(digest: str = "d", path: str = "team/files") -> BuildStep:
    """A COPY."""
    return BuildStep(kind="COPY", args=("src", "dest", "", ""), files=UploadedArchive(path=path, digest=digest * 64))


@dataclass
class Lab:
    """A store, build sandboxes and what a build needs of them."""

    store: LayerStore
    build_sandboxes: FakeBuildSandboxes
    images: FakeImages
    uploads: Path
    log: RecordedLog
    find_parent: Callable[[str], Template] = no_parents

    def build(self, *steps: BuildStep, cancellation: FakeCancellation | None = None, **fields: Any) -> Template:
        """Build them on the image, with an empty log and no sandboxes before."""
        self.log.entries.clear()
        self.build_sandboxes.opened.clear()
        wanted = {"build_id": "build-1", "template_id": "t1", "team_id": "team", "name": "mine", "image": _IMAGE, **fields}
        parts = ClientBuildParts(
            store=self.store,
            build_sandboxes=self.build_sandboxes,
            images=self.images,
            find_parent=self.find_parent,
            uploads=self.uploads,
            limits=Limits(mem_mib=777),
        )
        return build_client_template(BuildRequest(steps=steps, **wanted), parts, self.log, cancellation or FakeCancellation())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab with an image of one layer, and an uploaded archive."""
    store = LayerStore(tmp_path / "store")
    add_layer(store, _BASE)
    uploads = tmp_path / "uploads"
    (uploads / "team" / "files").mkdir(parents=True)
    results: dict[str, Any] = {"accounts": {"name": "vera", "home": "/home/vera"}, "workdir": {"path": "/app"}}
    images = FakeImages(BaseImage(layers=(_BASE,), envs={"LANG": "C"}))
    return Lab(store, FakeBuildSandboxes(store, results=results), images, uploads, RecordedLog())


def test_an_image_without_steps_is_a_template(lab: Lab) -> None:
    """The template has the settings of the image and those of the request."""
    made = lab.build(start_cmd="serve", ready_cmd="ready", cpu_count=1.5, disk_mib=99)
    assert (made.template_id, made.name, made.build_id, made.layers) == ("t1", "mine", "build-1", (_BASE,))
    assert (made.envs, made.user, made.workdir) == ({"LANG": "C"}, "user", "/home/user")
    assert (made.start_cmd, made.ready_cmd) == ("serve", "ready")
    assert made.limits == Limits(cpu_count=1.5, mem_mib=777, disk_mib=99)
    assert made.created_at > 0
    assert lab.build_sandboxes.opened == []
    assert lab.log.entries == [("info", "[base] FROM python:3", "base")]


def test_a_parent_hands_on_what_the_request_leaves_open(lab: Lab) -> None:
    """Layers, variables, user, directory, languages and commands, but neither names nor limits."""
    parent = Template(
        template_id="p", name="parent", build_id="pb", layers=(_BASE,), envs={"A": "1"}, user="root", workdir="/srv", kernel_user="user",
        languages=("python",), limits=Limits(mem_mib=5), aliases=("alias",), start_cmd="serve", ready_cmd="ready",
    )  # fmt: skip
    lab.find_parent = {"pb": parent}.__getitem__
    made = lab.build(image=None, parent="pb", ready_cmd="other")
    expected = replace(parent, template_id="t1", name="mine", build_id="build-1", aliases=(), ready_cmd="other", limits=Limits(mem_mib=777))
    assert replace(made, created_at=0.0) == expected


def test_a_capture_with_memory_is_no_base(lab: Lab) -> None:
    """Its files are in no layer, so the template would lack them."""
    capture = Template(template_id="p", name="snap", build_id="pb", layers=(_BASE,), authors=("team",), given_by="team", has_memory=True)
    lab.find_parent = {"pb": capture}.__getitem__
    with pytest.raises(BuildError, match="captured with its memory") as refused:
        lab.build(run_step("one"), image=None, parent="pb")
    assert "memory=false" in str(refused.value.hint)
    assert lab.build_sandboxes.opened == []


@pytest.mark.parametrize(
    ("of_parent", "of_build"), [((), ("team",)), (("team",), ("team",)), (("another",), ("another", "team")), (None, None)]
)
def test_whose_code_is_in_a_template_is_recorded(lab: Lab, of_parent: tuple[str, ...] | None, of_build: tuple[str, ...] | None) -> None:
    """The building team's beside all that the base has; what is not known of the base is not known of what is built on it."""
    parent = Template(template_id="p", name="parent", build_id="pb", layers=(_BASE,), authors=of_parent)
    lab.find_parent = {"pb": parent}.__getitem__
    assert lab.build(run_step("one"), image=None, parent="pb").authors == of_build
    assert lab.build(run_step("one"), image=None, parent="pb").authors == of_build, "from the cache"
    assert lab.build().authors == ("team",)


def test_steps_stand_on_each_other(lab: Lab) -> None:
    """Each sandbox has the layers and the state of the steps before."""
    made = lab.build(
        run_step("one"), step("ENV", "A", "1", "B", "$A:$USER"), step("USER", "vera"), step("WORKDIR", "sub"), copy_step(), run_step("two")
    )
    boxes = lab.build_sandboxes.opened
    assert [len(box.layers) for box in boxes] == [1, 2, 3, 4, 5]
    assert boxes[0].done == [ShellCommand(text="one", user="user", cwd=None)]
    assert boxes[1].done == [("accounts", {"user": "vera", "sudo": False})]
    assert boxes[2].done == [("workdir", {"path": "sub", "user": "vera", "workdir": ""})]
    assert boxes[3].done[0][1] == {
        "source": "src", "destination": "dest", "owner": "", "mode": "", "user": "vera", "workdir": "/app", "digest": "d" * 64,
    }  # fmt: skip
    assert boxes[4].done == [ShellCommand(text="two", user="vera", cwd="/app")]
    assert boxes[4].spec.envs == {"LANG": "C", "A": "1", "B": "1:user"}
    assert (made.user, made.workdir, made.envs, len(made.layers)) == ("vera", "/app", {"LANG": "C", "A": "1", "B": "1:user"}, 6)


def test_only_commands_see_the_network_and_the_host(lab: Lab) -> None:
    """Programs of ours have neither, and an archive only where it is needed."""
    lab.build(run_step("one"), step("USER", "vera"), copy_step())
    seen = [(not box.spec.egress.is_closed, box.spec.host_layer, box.spec.context is not None) for box in lab.build_sandboxes.opened]
    assert seen == [(True, True, False), (False, False, False), (False, False, True)]


def test_home_follows_the_user_until_a_directory_is_set(lab: Lab) -> None:
    """Commands start in the home of whoever runs them; the template's directory is the last user's home."""
    made = lab.build(step("USER", "vera"), run_step("one"), run_step("two", "root"))
    assert [done.cwd for box in lab.build_sandboxes.opened for done in box.done if isinstance(done, ShellCommand)] == [None, None]
    assert (made.user, made.workdir) == ("vera", "/home/vera")
    users = [command.user for box in lab.build_sandboxes.opened for command in box.done if isinstance(command, ShellCommand)]
    assert users == ["vera", "root"]


def test_an_unknown_home_is_asked_for_when_it_is_named(lab: Lab) -> None:
    """Once, and only then."""
    lab.images.image = BaseImage(layers=(_BASE,), user="vera", workdir="/srv")
    made = lab.build(step("ENV", "A", "$HOME/x"), step("ENV", "B", "${HOME}/y"))
    assert made.envs == {"A": "/home/vera/x", "B": "/home/vera/y"}
    assert [box.done for box in lab.build_sandboxes.opened] == [[("accounts", {"user": "vera", "make": False})]]
    assert made.workdir == "/srv"


def test_words_of_steps_have_variables(lab: Lab) -> None:
    """In users, directories and destinations, as in Dockerfiles."""
    lab.build(step("ENV", "U", "vera", "D", "/d"), step("USER", "$U"), step("WORKDIR", "$D/w"), copy_step())
    first, second, _third = (box.done[0][1] for box in lab.build_sandboxes.opened)
    assert (first["user"], second["path"]) == ("vera", "/d/w")


def test_what_writes_nothing_makes_no_layer(lab: Lab) -> None:
    """A command, a user or a directory that is there already."""
    lab.build_sandboxes.results = {"accounts": {"name": "root", "home": "/root", "made": False}, "workdir": {"path": "/app", "made": False}}
    made = lab.build(run_step("true"), step("USER", "root"), step("WORKDIR", "/app"), step("WORKDIR", "/"), step("ENV", "A", "1"))
    assert made.layers == (_BASE,)
    assert len(lab.build_sandboxes.opened) == 3


def test_a_second_build_takes_everything_from_the_cache(lab: Lab) -> None:
    """Without a sandbox, with the same outcome, and it says so."""
    steps = (run_step("one"), step("ENV", "A", "secret"), step("USER", "vera"), copy_step(), run_step("true"))
    first = lab.build(*steps)
    lab.build_sandboxes.on_run = pytest.fail
    second = lab.build(*steps, build_id="build-2", name="other", template_id="t2", mem_mib=1)
    assert (second.layers, second.envs, second.user, second.workdir) == (first.layers, first.envs, first.user, first.workdir)
    assert lab.build_sandboxes.opened == []
    assert lab.log.lines()[1:] == [
        "CACHED [1/5] RUN one", "CACHED [2/5] ENV A", "CACHED [3/5] USER vera", "CACHED [4/5] COPY src dest", "CACHED [5/5] RUN true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "fields", "ran"),
    [
        ((run_step("one"), run_step("two")), {}, []),
        ((run_step("one"), run_step("other")), {}, ["other"]),
        ((run_step("zero"), run_step("two")), {}, ["zero", "two"]),
        ((run_step("one", "root"), run_step("two")), {}, ["one", "two"]),
        ((run_step("one"), step("ENV", "A", "1"), run_step("two")), {}, ["two"]),
        ((run_step("one"), run_step("two", force=True)), {}, ["two"]),
        ((run_step("one", force=True), run_step("two")), {}, ["one", "two"]),
        ((run_step("one"), run_step("two")), {"force": True}, ["one", "two"]),
        ((run_step("one"), run_step("two")), {"team_id": "another"}, ["one", "two"]),
    ],
    ids=["same", "last", "first", "user", "between", "force-last", "force-first", "force-all", "team"],
)
def test_what_is_built_anew(lab: Lab, steps: tuple[BuildStep, ...], fields: dict[str, Any], ran: list[str]) -> None:
    """A step that is another one, or is forced, and all steps after it; another team's steps are never taken."""
    lab.build(run_step("one"), run_step("two"))
    lab.build(*steps, build_id="build-2", **fields)
    assert lab.build_sandboxes.commands == ran


def test_arguments_are_a_list(lab: Lab) -> None:
    """Two steps whose joined texts are equal are two."""
    lab.build(step("ENV", "A", "1 B", "C", "2"))
    made = lab.build(step("ENV", "A", "1", "B", "C 2"), build_id="build-2")
    assert made.envs == {"LANG": "C", "A": "1", "B": "C 2"}


def test_other_files_or_another_base_are_another_step(lab: Lab) -> None:
    """The digest of the files is in the key, and so is all that the base hands on."""
    lab.build(copy_step("d"))
    lab.build(copy_step("d"))
    assert lab.build_sandboxes.opened == []
    lab.build(copy_step("e"))
    assert len(lab.build_sandboxes.opened) == 1
    lab.images.image = replace(lab.images.image, envs={"LANG": "other"})
    lab.build(copy_step("d"))
    assert len(lab.build_sandboxes.opened) == 1


def test_a_collected_layer_is_made_again(lab: Lab) -> None:
    """A record whose layer is gone counts for nothing; the steps before it do."""
    made = lab.build(run_step("one"), run_step("two"), run_step("three"))
    lab.store.rootfs(made.layers[2]).rmdir()
    again = lab.build(run_step("one"), run_step("two"), run_step("three"))
    assert lab.build_sandboxes.commands == ["two"]
    assert again.layers == made.layers


def test_a_build_goes_on_where_it_was_cut_off(lab: Lab) -> None:
    """Also a forced one, since it is the same build; and a layer that was made and not recorded is not made again."""
    steps = (run_step("one"), run_step("two"), run_step("three"))
    lab.build_sandboxes.statuses = {"three": 1}
    with pytest.raises(BuildError):
        lab.build(*steps, force=True)
    for record in sorted((lab.store.root / "steps").iterdir(), key=lambda path: path.stat().st_mtime_ns)[1:]:
        record.unlink()
    lab.build_sandboxes.statuses = {}
    lab.build(*steps, force=True)
    assert lab.build_sandboxes.commands == ["three"]
    assert lab.log.lines()[1] == "CACHED [1/3] RUN one"


def test_a_failed_step_leaves_nothing(lab: Lab) -> None:
    """Neither a layer nor a record; the error names the step, the command and its status."""
    lab.build_sandboxes.statuses = {"false": 3}
    with pytest.raises(BuildError) as caught:
        lab.build(run_step("one"), run_step("false"))
    assert caught.value.message == "failed to run command 'false': command failed: exit status 3"
    assert caught.value.step == "2"
    assert len(list((lab.store.root / "layers").iterdir())) == 2
    assert len(list((lab.store.root / "steps").iterdir())) == 1


@pytest.mark.parametrize(
    ("fault", "step_named"), [(BuildError("no"), "1"), (NoCapacityError("full"), "1"), (BuildError("no", step="base"), "base")]
)
def test_faults_of_a_step_name_it(lab: Lab, fault: Exception, step_named: str) -> None:
    """Whatever the sandbox could not do, unless the fault says better."""
    lab.build_sandboxes.results = {"accounts": fault}
    with pytest.raises(BuildError) as caught:
        lab.build(step("USER", "vera"))
    assert caught.value.step == step_named


def test_a_fault_of_this_host_stays_one(lab: Lab) -> None:
    """It is not told as the client's."""
    lab.build_sandboxes.results = {"accounts": RuntimeFailedError("no")}
    with pytest.raises(RuntimeFailedError):
        lab.build(step("USER", "vera"))


@pytest.mark.parametrize("fault", [BuildError("no such image"), NoCapacityError("full"), TemplateNotFoundError("gone")])
def test_faults_of_the_base_are_the_bases(lab: Lab, fault: Exception) -> None:
    """The SDKs call it ``base``."""
    lab.images.fault = fault
    with pytest.raises(BuildError) as caught:
        lab.build(run_step("one"))
    assert (caught.value.step, caught.value.message) == ("base", str(fault))


@pytest.mark.parametrize(
    "result", [{}, {"name": "x\n", "home": "/"}, {"name": "x", "home": "relative"}, {"name": 5, "home": "/"}, {"name": "x", "home": "/\0"}]
)
def test_what_a_sandbox_says_is_checked(lab: Lab, result: dict[str, Any]) -> None:
    """Foreign code may have spoken for our program."""
    lab.build_sandboxes.results = {"accounts": result}
    with pytest.raises(BuildError):
        lab.build(step("USER", "vera"))


def test_output_is_logged_by_lines(lab: Lab) -> None:
    """Both streams, whole lines, the last state of a line that was overwritten, under the number of the step."""
    lab.build_sandboxes.outputs = {
        "one": [("stdout", b"a\nb"), ("stderr", b"err\n"), ("stdout", b"c\r\n10%\r20%\r30%\n"), ("stdout", b"\xff end")]
    }
    lab.build(run_step("one"))
    shown = [entry for entry in lab.log.entries if entry[0] == "info" and entry[2] == "1"]
    assert [message for _level, message, _step in shown] == ["[1/1] RUN one", "a", "err", "bc", "30%", "\ufffd end"]


def test_a_long_line_comes_in_pieces(lab: Lab) -> None:
    """No program makes the log hold a line of any length."""
    lab.build_sandboxes.outputs = {"one": [("stdout", b"x" * 10_000), ("stdout", b"y" * 100 + b"\n")]}
    lab.build(run_step("one"))
    lines = [message for _level, message, number in lab.log.entries if number == "1" and message[0] in "xy"]
    assert "".join(lines) == "x" * 10_000 + "y" * 100
    assert max(map(len, lines)) == 4096


def test_titles_are_short_and_hold_no_values(lab: Lab) -> None:
    """One line each; values of variables may be secrets."""
    lab.build(step("ENV", "TOKEN", "hunter2", "B", "2"), run_step("echo 1\necho 2"), run_step("x" * 500))
    lines = lab.log.lines()
    assert lines[1:3] == ["[1/3] ENV TOKEN B", "[2/3] RUN echo 1…"]
    assert len(lines[3]) < 300


def test_a_cancelled_build_begins_no_further_step(lab: Lab) -> None:
    """It is asked before each step."""
    with pytest.raises(BuildError, match="cancelled"):
        lab.build(run_step("one"), run_step("two"), cancellation=FakeCancellation(after=2))
    assert lab.build_sandboxes.commands == ["one"]


def test_two_builds_of_one_step_make_it_once(lab: Lab) -> None:
    """The second says that it waits, and takes what the first made."""
    begun, go_on = threading.Event(), threading.Event()

    def run(_text: str) -> None:
        begun.set()
        assert go_on.wait(10)

    lab.build_sandboxes.on_run = run
    first = threading.Thread(target=lab.build, args=(run_step("one"),))
    first.start()
    assert begun.wait(10)
    other = Lab(lab.store, FakeBuildSandboxes(lab.store), lab.images, lab.uploads, RecordedLog())

    class Release(FakeCancellation):
        def check(self) -> None:
            super().check()
            if "[1/1] waiting for another build of this step" in other.log.lines():
                go_on.set()

    made = other.build(run_step("one"), build_id="build-2", cancellation=Release())
    first.join(10)
    assert other.build_sandboxes.opened == []
    assert len(made.layers) == 2
    assert other.log.lines()[-1] == "CACHED [1/1] RUN one"


def test_a_waiting_build_can_be_cancelled(lab: Lab) -> None:
    """It need not wait for the other to end."""
    lab.build(run_step("one"))
    key = next((lab.store.root / "steps").iterdir()).stem
    (lab.store.root / "steps" / f"{key}.json").unlink()
    with lab.store.lock(key), pytest.raises(BuildError, match="cancelled"):
        lab.build(run_step("one"), cancellation=FakeCancellation(after=4))


@pytest.mark.parametrize("path", ["absent", "../uploads/team/files", "link", "inner", "team/files/archive", "/etc"])
def test_a_compromised_api_process_cannot_name_other_directories(lab: Lab, path: str) -> None:
    """Archives come from below the uploads, by no link and no detour."""
    (lab.uploads / "link").symlink_to("/etc")
    (lab.uploads / "inner").symlink_to("team/files")
    (lab.uploads / "team" / "files" / "archive").write_bytes(b"")
    with pytest.raises(BuildError, match="not there") as caught:
        lab.build(copy_step(path=path))
    assert caught.value.step == "1"
    assert lab.build_sandboxes.opened == []


def test_an_archive_stays_what_was_opened(lab: Lab) -> None:
    """The directory is named by a descriptor, so exchanging the name afterwards changes nothing."""
    seen: list[str] = []
    (lab.uploads / "team" / "files" / "archive").write_text("right")
    publish = lab.build_sandboxes.open

    def exchange(*args: Any) -> Any:
        (lab.uploads / "team").rename(lab.uploads / "away")
        (lab.uploads / "team").symlink_to("/etc")
        context = args[1].context
        seen.append((context / "archive").read_text())
        return publish(*args)

    lab.build_sandboxes.open = exchange  # type: ignore[method-assign, assignment]  # replaced on purpose
    lab.build(copy_step())
    assert seen == ["right"]
