"""The official Python SDK's template builder, unmodified, against the control plane over a fake node that builds by itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from e2b import AsyncTemplate, Sandbox, Template
from e2b.exceptions import AuthenticationException, BuildException, FileUploadException, SandboxException, TemplateException
from e2b.template.types import BuildInfo, TemplateBuildStatus

from cloister.control.uploads import Uploads
from cloister.model.build import BuildRequest, BuildStep, ImageSource
from framework.control_plane import ControlPlane, running_control_plane

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose builds run."""
    with running_control_plane(tmp_path_factory.mktemp("templates") / "data") as plane:
        plane.node.builds_run = True
        yield plane


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files to copy."""
    (tmp_path / "app" / "sub").mkdir(parents=True)
    (tmp_path / "app" / "main.py").write_text("print(1)\n")
    (tmp_path / "app" / "sub" / "data").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "app" / "link").symlink_to("main.py")
    (tmp_path / "one.txt").write_text(tmp_path.name)
    return tmp_path


def new_name() -> str:
    """A name that no test has."""
    return f"t-{uuid.uuid4().hex[:12]}"


def request_of(plane: ControlPlane, built: BuildInfo) -> BuildRequest:
    """What the node was asked."""
    return plane.node.builds[built.build_id]


def sdk(plane: ControlPlane) -> Any:
    """Keyword arguments that point the sandboxes at the control plane."""
    return plane.sdk


def connection(plane: ControlPlane) -> Any:
    """Keyword arguments that point the builder at the control plane."""
    return {"api_key": plane.api_key, "api_url": plane.url}


def test_build_with_everything(plane: ControlPlane, files: Path) -> None:
    """A build with every kind of step arrives at the node as the client wrote it, its logs come back, and a sandbox runs it."""
    template = (
        Template(file_context_path=str(files))
        .from_image("debian:12")
        .copy("one.txt", "/app/", user="root", mode=0o755)
        .copy("app", "/app/tree")
        .run_cmd("echo hello")
        .run_cmd("id", user="root")
        .set_workdir("/app")
        .set_user("root")
        .set_envs({"A": "1", "B": "two"})
        .skip_cache()
        .run_cmd("fresh")
        .set_start_cmd("serve", "ready")
    )
    name = new_name()
    logs: list[Any] = []
    built = Template.build(
        template,
        f"{name}:v1",
        tags=["stable"],
        cpu_count=1,
        memory_mb=512,
        min_free_disk_mb=8192,
        on_build_logs=logs.append,
        **connection(plane),
    )
    assert built.tags == ["v1", "stable"]
    request = request_of(plane, built)
    assert (request.name, request.template_id) == (name, built.template_id)
    assert request.image is not None
    assert (request.image.reference, request.image.username) == ("debian:12", None)
    assert (request.cpu_count, request.mem_mib, request.disk_mib) == (1, 512, 8192)
    assert (request.start_cmd, request.ready_cmd) == ("serve", "ready")
    plain = [(step.kind, step.args, step.force) for step in request.steps]
    assert plain == [
        ("COPY", ("one.txt", "/app/", "root", "0755"), False),
        ("COPY", ("app", "/app/tree", "", ""), False),
        ("RUN", ("echo hello",), False),
        ("RUN", ("id", "root"), False),
        ("WORKDIR", ("/app",), False),
        ("USER", ("root",), False),
        ("ENV", ("A", "1", "B", "two"), False),
        ("RUN", ("fresh",), True),
    ]
    for step in request.steps[:2]:
        assert step.files is not None
        assert (plane.settings.data_dir / "api" / "uploads" / step.files.path / "archive").is_file()
        assert len(step.files.digest) == 64
    messages = [entry.message for entry in logs]
    assert messages.count("[3] RUN echo hello") == 1
    assert messages[-2] == "[finalize] READY ready"
    with Sandbox.create(f"{name}:stable", **sdk(plane)) as sandbox:
        info = sandbox.get_info()
        assert (info.template_id, info.name) == (built.template_id, name)
        assert (info.cpu_count, info.memory_mb) == (1, 512)
        assert plane.node.find(sandbox.sandbox_id).request.template == built.build_id


def test_second_upload_is_skipped_and_forced(plane: ControlPlane, files: Path) -> None:
    """Files that are here are not sent again, unless the client insists; another team's do not count."""
    template = Template(file_context_path=str(files)).from_image("debian").copy("one.txt", "/x")
    said: list[str] = []

    def note(entry: Any) -> None:
        said.append(entry.message)

    Template.build(template, new_name(), on_build_logs=note, **connection(plane))
    assert "Uploaded 'one.txt'" in said
    said.clear()
    Template.build(template, new_name(), on_build_logs=note, **connection(plane))
    assert "Skipping upload of 'one.txt', already cached" in said
    said.clear()
    forced = Template(file_context_path=str(files)).from_image("debian").copy("one.txt", "/x", force_upload=True)
    Template.build(forced, new_name(), on_build_logs=note, **connection(plane))
    assert "Uploaded 'one.txt'" in said


@pytest.mark.parametrize(
    ("template", "message", "step"),
    [
        (
            Template().from_image("debian").run_cmd("true").run_cmd("exit 3"),
            "failed to run command 'exit 3': command failed: exit status 3",
            "2",
        ),
        (Template().from_image("missing"), "failed to pull image 'missing': not found", "base"),
        (Template().from_image("debian").set_start_cmd("x", "false"), "ready command failed: exit status 1", "finalize"),
    ],
)
def test_failed_builds_say_why_and_where(plane: ControlPlane, template: Any, message: str, step: str) -> None:
    """The SDK raises the node's message, and the status names the step and its last log entries."""
    name = new_name()
    with pytest.raises(BuildException, match=message.replace("(", r"\(")):
        Template.build(template, name, **connection(plane))
    background = Template.build_in_background(template, name, **connection(plane))
    while (status := Template.get_build_status(background, **connection(plane))).status not in (
        TemplateBuildStatus.ERROR,
        TemplateBuildStatus.READY,
    ):
        pass
    assert status.reason is not None
    assert (status.reason.message, status.reason.step) == (message, step)
    assert status.reason.log_entries[-1].message == message
    with pytest.raises(SandboxException, match=f"template '{name}' has no finished build.*{message[:20]}"):
        Sandbox.create(name, **sdk(plane))


def test_log_offsets_are_exact(plane: ControlPlane) -> None:
    """A log longer than a page arrives whole, each entry once."""
    template = Template().from_image("debian")
    for number in range(260):
        template = template.run_cmd(f"echo {number}")
    logs: list[Any] = []
    plane.node.build_step_s = 0.0
    try:
        Template.build(template, new_name(), on_build_logs=logs.append, **connection(plane))
    finally:
        plane.node.build_step_s = 0.02
    seen = [entry.message.rpartition(" ")[2] for entry in logs if entry.message.startswith("[") and " RUN " in entry.message]
    assert seen == [str(number) for number in range(260)]


def test_from_template(plane: ControlPlane) -> None:
    """A template begins with another of the team by name, tag and id, with a stock one, and not with one that is not there."""
    name = new_name()
    first = Template.build(Template().from_image("debian"), f"{name}:a", **connection(plane))
    for reference in (f"{name}:a", f"{first.template_id}:a", f"default/{name}:a"):
        built = Template.build(Template().from_template(reference).run_cmd("true"), new_name(), **connection(plane))
        assert request_of(plane, built).parent == first.build_id
    built = Template.build(Template().from_template("base"), new_name(), **connection(plane))
    assert request_of(plane, built).parent == "base"
    with pytest.raises(BuildException, match="template 'nothing' not found"):
        Template.build(Template().from_template("nothing"), new_name(), **connection(plane))
    with pytest.raises(BuildException, match=f"tag 'b' does not exist for template '{name}'"):
        Template.build(Template().from_template(f"{name}:b"), new_name(), **connection(plane))


def test_registries(plane: ControlPlane) -> None:
    """Credentials of a registry, of Google and of Amazon reach the node; an access key is for Amazon only."""
    build = Template.build(Template().from_image("r.example/x", username="u", password="p"), new_name(), **connection(plane))
    image = request_of(plane, build).image
    assert image is not None
    assert (image.username, image.password) == ("u", "p")
    build = Template.build(Template().from_gcp_registry("gcr.io/x", {"type": "service_account"}), new_name(), **connection(plane))
    image = request_of(plane, build).image
    assert image is not None
    assert (image.username, image.password) == ("_json_key", '{"type": "service_account"}')
    key: Any = {"access_key_id": "a", "secret_access_key": "s", "region": "eu-west-1"}
    amazon = Template().from_aws_registry("1.dkr.ecr.eu-west-1.amazonaws.com/x", **key)
    image = request_of(plane, Template.build(amazon, new_name(), **connection(plane))).image
    assert image == ImageSource(reference="1.dkr.ecr.eu-west-1.amazonaws.com/x", username="a", password="s", is_aws_key=True)
    with pytest.raises(BuildException, match="is in no registry of Amazon"):
        Template.build(Template().from_aws_registry("r.example/x", **key), new_name(), **connection(plane))


def test_tags_move_and_go(plane: ControlPlane) -> None:
    """Tags are assigned, listed, moved by a build and removed; sandboxes follow them."""
    name = new_name()
    first = Template.build(Template().from_image("debian"), name, **connection(plane))
    given = Template.assign_tags(f"{name}:default", ["v1", "prod"], **connection(plane))
    assert (given.build_id, given.tags) == (first.build_id, ["v1", "prod"])
    second = Template.build(Template().from_image("debian:13"), f"{name}:prod", **connection(plane))
    tags = {tag.tag: tag for tag in Template.get_tags(name, **connection(plane))}
    assert {tag: one.build_id for tag, one in tags.items()} == {"default": first.build_id, "v1": first.build_id, "prod": second.build_id}
    assert abs((datetime.now(UTC) - tags["prod"].created_at).total_seconds()) < 60
    with Sandbox.create(f"{name}:prod", **sdk(plane)) as sandbox:
        assert plane.node.find(sandbox.sandbox_id).request.template == second.build_id
    Template.remove_tags(name, ["prod"], **connection(plane))
    with pytest.raises(SandboxException, match=f"tag 'prod' does not exist for template '{name}'"):
        Sandbox.create(f"{name}:prod", **sdk(plane))
    with Sandbox.create(name, **sdk(plane)) as sandbox:
        assert plane.node.find(sandbox.sandbox_id).request.template == first.build_id


def test_builds_and_bare_ids_are_launched(plane: ControlPlane) -> None:
    """A sandbox or template begins with a build by its id, and with a bare template id when one build alone has tags; else it is told the tags."""
    name = new_name()
    first = Template.build(Template().from_image("debian"), f"{name}:v1", **connection(plane))
    for text in (f"{name}:{first.build_id}", f"{first.template_id}:{first.build_id.upper()}", f"default/{name}:v1", first.template_id):
        with Sandbox.create(text, **sdk(plane)) as sandbox:
            assert plane.node.find(sandbox.sandbox_id).request.template == first.build_id
    second = Template.build(Template().from_image("debian:13"), f"{name}:v2", **connection(plane))
    template = Template().from_template(f"{name}:{first.build_id}").run_cmd("true")
    assert request_of(plane, Template.build(template, new_name(), **connection(plane))).parent == first.build_id
    for text in (first.template_id, name):
        with pytest.raises(SandboxException, match=rf"tag 'default' does not exist for template '{text}' \(its tags: v1, v2\)"):
            Sandbox.create(text, **sdk(plane))
    Template.assign_tags(f"{name}:{second.build_id}", ["default"], **connection(plane))
    with Sandbox.create(first.template_id, **sdk(plane)) as sandbox:
        assert plane.node.find(sandbox.sandbox_id).request.template == second.build_id
    other = Template.build(Template().from_image("debian"), new_name(), **connection(plane))
    for build_id in (str(uuid.uuid4()), other.build_id):
        with pytest.raises(SandboxException, match=f"build '{build_id}' does not exist for template '{name}'"):
            Sandbox.create(f"{name}:{build_id}", **sdk(plane))
    with pytest.raises(SandboxException, match="does not exist for template 'base'"):
        Sandbox.create(f"base:{other.build_id}", **sdk(plane))
    failed = Template.build_in_background(Template().from_image("missing"), name, **connection(plane))
    while Template.get_build_status(failed, **connection(plane)).status is not TemplateBuildStatus.ERROR:
        pass
    with pytest.raises(SandboxException, match=f"build '{failed.build_id}' of template '{name}' is not finished .*failed to pull"):
        Sandbox.create(f"{name}:{failed.build_id}", **sdk(plane))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda name, sdk: Template.assign_tags(f"{name}:none", ["x"], **sdk), "tag 'none' does not exist"),
        (lambda _, sdk: Template.assign_tags("nothing", ["x"], **sdk), "template 'nothing' not found"),
        (lambda name, sdk: Template.assign_tags(name, [], **sdk), "At least one tag is required"),
        (lambda name, sdk: Template.assign_tags(name, ["a b"], **sdk), "Invalid tag"),
        (lambda name, sdk: Template.assign_tags(name, [str(uuid.uuid4())], **sdk), "a tag cannot be a UUID"),
        (lambda name, sdk: Template.assign_tags(f"{name}:", ["x"], **sdk), "Invalid target template format"),
        (lambda name, sdk: Template.assign_tags(f":{name}", ["x"], **sdk), "Invalid target template format"),
        (lambda _, sdk: Template.assign_tags("base", ["x"], **sdk), "is the server's"),
        (lambda name, sdk: Template.remove_tags(name, ["none"], **sdk), "tag 'none' does not exist"),
        (lambda name, sdk: Template.remove_tags(name, ["default"], **sdk), "Cannot delete the 'default' tag"),
        (lambda name, sdk: Template.remove_tags(f"{name}:", ["x"], **sdk), "Invalid template name format"),
        (lambda name, sdk: Template.remove_tags(f"{name}:x", ["x"], **sdk), "should not contain a tag"),
        (lambda _, sdk: Template.get_tags("nothing", **sdk), "template 'nothing' not found"),
    ],
)
def test_tags_that_cannot_be(plane: ControlPlane, call: Any, message: str) -> None:
    """Impossible tags and templates that are not there are TemplateExceptions that say so."""
    name = new_name()
    Template.build(Template().from_image("debian"), name, **connection(plane))
    with pytest.raises(TemplateException, match=message):
        call(name, connection(plane))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "base"}, "already used"),
        ({"name": "code-interpreter-v1:mine"}, "already used"),
        ({"name": "a b"}, "Invalid name"),
        ({"name": "x" * 129}, "Invalid name"),
        ({"name": "x:"}, "Invalid name"),
        ({"name": ":x"}, "Invalid name"),
        ({"name": "other/x"}, "namespace 'other' must match your team 'default'"),
        ({"name": "x", "tags": ["ä"]}, "Invalid tag"),
        ({"name": "x", "cpu_count": 0}, "CPU count must be at least 1"),
        ({"name": "x", "cpu_count": 9}, "CPU count can't be higher than 8 .the server's setting max_template_cpu_count"),
        ({"name": "x", "memory_mb": 64}, "Memory must be at least 128 MiB"),
        ({"name": "x", "memory_mb": 1025}, "Memory must be divisible by 2"),
        ({"name": "x", "memory_mb": 1 << 20}, "Memory can't be higher than 8192 MiB"),
        ({"name": "x", "min_free_disk_mb": 1 << 20}, "minFreeDiskMb can't be higher than 20480 MiB"),
    ],
)
def test_requests_that_cannot_be(plane: ControlPlane, arguments: dict[str, Any], message: str) -> None:
    """Impossible names, tags and sizes are BuildExceptions that say so; names are compared in lower case."""
    with pytest.raises(BuildException, match=message):
        Template.build(Template().from_image("debian"), **arguments, **connection(plane))


def test_names_are_lower_case(plane: ControlPlane) -> None:
    """A name in capitals is the same template."""
    name = new_name()
    first = Template.build(Template().from_image("debian"), name.upper(), **connection(plane))
    second = Template.build(Template().from_image("debian"), f" {name} ", **connection(plane))
    assert first.template_id == second.template_id
    assert Template.exists(name.upper(), **connection(plane))


def test_exists(plane: ControlPlane) -> None:
    """Own templates and the server's exist, others do not."""
    name = new_name()
    assert not Template.exists(name, **connection(plane))
    Template.build_in_background(Template().from_image("debian"), name, **connection(plane))
    assert Template.exists(name, **connection(plane))
    assert Template.exists("base", **connection(plane))
    with pytest.raises(AuthenticationException):
        Template.exists(name, api_key="e2b_" + "0" * 40, api_url=plane.url)


def test_archives_of_other_builders(plane: ControlPlane, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder with hashes of its own copies files too, and is not asked for them twice; the content decides what the node copies."""
    digests = []
    for upload_hash in ("other-builder_1", "0" * 40):
        monkeypatch.setattr("e2b.template.main.calculate_files_hash", lambda *_, made=upload_hash, **__: made)
        template = Template(file_context_path=str(files)).from_image("debian").run_cmd("true").copy("one.txt", "/x")
        logs: list[Any] = []
        for _ in range(2):
            built = Template.build(template, new_name(), on_build_logs=logs.append, **connection(plane))
        messages = [entry.message for entry in logs if "'one.txt'" in entry.message]
        assert messages == ["Uploaded 'one.txt'", "Skipping upload of 'one.txt', already cached"]
        step = request_of(plane, built).steps[1]
        assert step.files is not None
        digests.append(step.files.digest)
    assert digests[0] == digests[1]


def test_upload_links_are_checked(plane: ControlPlane, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused upload is a FileUploadException."""
    monkeypatch.setattr(Uploads, "_token", lambda *_: "bm8.00")
    template = Template(file_context_path=str(files)).from_image("debian").copy("one.txt", "/other")
    with pytest.raises(FileUploadException, match="401"):
        Template.build(template, new_name(), **connection(plane))


def test_async_builder(plane: ControlPlane, files: Path) -> None:
    """The asynchronous builder builds, tags, and asks what exists."""

    async def use() -> None:
        name = new_name()
        template = AsyncTemplate(file_context_path=str(files)).from_python_image("3.12").copy("app", "/app").run_cmd("true")
        built = await AsyncTemplate.build(template, name, **connection(plane))
        assert [step.kind for step in request_of(plane, built).steps] == ["COPY", "RUN"]
        await AsyncTemplate.assign_tags(f"{name}:default", ["v1"], **connection(plane))
        assert {tag.tag for tag in await AsyncTemplate.get_tags(name, **connection(plane))} == {"default", "v1"}
        await AsyncTemplate.remove_tags(name, ["v1"], **connection(plane))
        assert await AsyncTemplate.exists(name, **connection(plane))
        with pytest.raises(BuildException, match="exit status 1"):
            await AsyncTemplate.build(AsyncTemplate().from_image("debian").run_cmd("exit 1"), name, **connection(plane))

    asyncio.run(use())


def test_snapshots(plane: ControlPlane) -> None:
    """Snapshots are made, listed in pages and by filters, run, and deleted; those that are not there cannot be."""
    with Sandbox.create("base", **sdk(plane)) as sandbox:
        plain = sandbox.create_snapshot()
        named = sandbox.create_snapshot("snap-one")
        tagged = sandbox.create_snapshot("snap-one:v2", mode="filesystem")
        assert (plain.names, named.names) == ([], ["default/snap-one"])
        assert (named.snapshot_id, tagged.snapshot_id) == ("default/snap-one:default", "default/snap-one:v2")
        pages = sandbox.list_snapshots(limit=1, **connection(plane))
        listed = pages.next_items()
        assert pages.has_next
        listed += pages.next_items()
        assert not pages.has_next
        assert [one.snapshot_id for one in listed] == [tagged.snapshot_id, plain.snapshot_id]
        for asked in (named, tagged):
            for name in (asked.snapshot_id, asked.snapshot_id.partition("/")[2]):
                by_name = Sandbox.list_snapshots(name=name, **connection(plane)).next_items()
                assert [one.snapshot_id for one in by_name] == [asked.snapshot_id]
        for name in ("snap-one", "default/snap-one"):
            assert Sandbox.list_snapshots(name=name, **connection(plane)).next_items() == [tagged]
        assert Sandbox.list_snapshots(name="snap-none", **connection(plane)).next_items() == []
        with pytest.raises(SandboxException, match="400: a snapshot with memory needs the capability 'checkpoint'"):
            sandbox.create_snapshot(mode="full")
    for one in (plain, named, tagged):
        with Sandbox.create(one.snapshot_id, **sdk(plane)) as copy:
            assert plane.node.find(copy.sandbox_id).request.template in plane.node.snapshots
    assert Sandbox.delete_snapshot(tagged.snapshot_id, **connection(plane))
    with Sandbox.create(named.snapshot_id, **sdk(plane)):
        pass
    assert Sandbox.delete_snapshot(named.snapshot_id, **connection(plane))
    assert Sandbox.delete_snapshot(plain.snapshot_id, **connection(plane))
    assert not Sandbox.delete_snapshot(plain.snapshot_id, **connection(plane))
    with pytest.raises(SandboxException, match="not found"):
        Sandbox.create(named.snapshot_id, **sdk(plane))
    with pytest.raises(SandboxException):
        Sandbox.create_snapshot("a" * 20, **connection(plane))


def test_steps_carry_no_hash_of_the_client(plane: ControlPlane, files: Path) -> None:
    """The node gets the digest of what was uploaded, the same for two hashes of the same file."""
    digests = set()
    for destination in ("/one", "/two"):
        template = Template(file_context_path=str(files)).from_image("debian").copy("one.txt", destination)
        step: BuildStep = request_of(plane, Template.build(template, new_name(), **connection(plane))).steps[0]
        assert step.files is not None
        digests.add(step.files.digest)
    assert len(digests) == 1
