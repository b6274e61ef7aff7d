"""Build requests of a node protocol peer: every field is checked, because the api process is not trusted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.build import BuildRequest
from cloister.nodewire.methods import METHODS
from cloister.template.building.stepcheck import check_request


def parse_build(params: dict[str, Any]) -> BuildRequest:
    """The request that ``params`` of ``start_build`` hold."""
    (request,) = METHODS["start_build"].read_request(params, len(json.dumps(params)))
    assert isinstance(request, BuildRequest)
    return request


FILES = {"path": "team/archive.1", "digest": "0" * 64}
COPY = {"kind": "COPY", "args": ["a", "b"], "files": FILES}
RUN = {"kind": "RUN", "args": ["true"]}
GOOD: dict[str, Any] = {
    "build_id": "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e",
    "template_id": "abc",
    "team_id": "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e",
    "name": "My template",
    "parent": "code-interpreter-v1",
}


def with_files(**fields: Any) -> dict[str, Any]:
    """The fields of a build of one COPY whose files are described so."""
    return {"steps": [{**COPY, "files": {**FILES, **fields}}]}


def test_what_is_left_out_has_its_default() -> None:
    """A request of the necessary fields is whole, and reads back as it was written."""
    request = parse_build(GOOD)
    assert (request.steps, request.image, request.cpu_count, request.force) == ((), None, None, False)
    assert parse_build({**request.to_json(), "steps": [COPY, RUN]}).steps[0].args == ("a", "b")


def test_as_many_variables_as_a_step_may_have() -> None:
    """The codec accepts everything that the check of steps accepts: a thousand names and values."""
    words = [word for number in range(1000) for word in (f"NAME{number}", "value")]
    request = parse_build({**GOOD, "parent": None, "image": {"reference": "python"}, "steps": [{"kind": "ENV", "args": words}]})
    check_request(request)
    assert len(request.steps[0].args) == 2000


@pytest.mark.parametrize(
    "fields",
    [
        {"build_id": "../../../etc"},
        {"build_id": "5B1FE2A4-4F51-4B6F-8A4E-27AB02A05C1E"},
        {"build_id": "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e\n"},
        {"build_id": None},
        {"template_id": "a/b"},
        {"team_id": "../team"},
        {"name": "a\nb"},
        {"name": "a\x1b[2J"},
        {"name": "n" * 257},
        {"name": "\ud800"},
        {"parent": None},
        {"parent": "../x"},
        {"parent": ".hidden"},
        {"image": {"reference": "python"}},
        {"parent": None, "image": "python"},
        {"parent": None, "image": {"reference": "a b"}},
        {"parent": None, "image": {"reference": "a\n"}},
        {"parent": None, "image": {"reference": "é"}},
        {"parent": None, "image": {"reference": "r" * 1025}},
        {"parent": None, "image": {"reference": "python", "username": 5}},
        {"parent": None, "image": {"reference": "python", "password": "p" * 16_385}},
        {"parent": None, "image": {"reference": "python", "more": ""}},
        {"steps": {}},
        {"steps": [RUN] * 1001},
        {"steps": ["RUN true"]},
        {"steps": [{**RUN, "kind": "run"}]},
        {"steps": [{**RUN, "kind": ["RUN"]}]},
        {"steps": [{**RUN, "args": []}]},
        {"steps": [{**RUN, "args": "true"}]},
        {"steps": [{**RUN, "args": [5]}]},
        {"steps": [{**RUN, "args": ["a\0b"]}]},
        {"steps": [{**RUN, "args": ["\udc80"]}]},
        {"steps": [{**RUN, "args": ["x" * 131_073]}]},
        {"steps": [{**RUN, "args": ["x"] * 2001}]},
        {"steps": [{**RUN, "force": 1}]},
        {"steps": [{**RUN, "more": 1}]},
        {"steps": [{**RUN, "files": FILES}]},
        {"steps": [{**COPY, "files": None}]},
        {"steps": [{**COPY, "files": "team/archive"}]},
        with_files(path="/etc/shadow"),
        with_files(path="team"),
        with_files(path="team/"),
        with_files(path="team/a/b"),
        with_files(path="../archive"),
        with_files(path="team/.."),
        with_files(path="team/."),
        with_files(path="./archive"),
        with_files(path="team/a\n"),
        with_files(path="team/a\0"),
        with_files(path="t" * 200 + "/a"),
        with_files(path=None),
        with_files(digest="0" * 63),
        with_files(digest="G" * 64),
        with_files(digest="0" * 64 + "\n"),
        {"steps": [{**RUN, "args": ["x" * 131_072] * 9}] * 4},
        {"start_cmd": None},
        {"ready_cmd": "x" * 131_073},
        {"cpu_count": 0},
        {"cpu_count": float("inf")},
        {"cpu_count": float("nan")},
        {"cpu_count": True},
        {"cpu_count": "2"},
        {"mem_mib": 0.5},
        {"mem_mib": -1},
        {"disk_mib": "1024"},
        {"force": "yes"},
        {"force": 1},
        {"more": 1},
    ],
    ids=repr,
)
def test_builds_of_the_wrong_shape(fields: dict[str, Any]) -> None:
    """One bad field of an otherwise good request is enough to refuse it."""
    parse_build(GOOD)
    with pytest.raises(InvalidRequestError):
        parse_build({**GOOD, **fields})


@pytest.mark.parametrize("params", [{}, {"build_id": 5}, {"build_id": "x"}, {"build_id": ".."}])
def test_build_ids_name_nothing_else(params: dict[str, Any]) -> None:
    """A build id is a directory's name on the host, so it is a UUID and nothing else."""
    with pytest.raises(InvalidRequestError):
        METHODS["drop_build"].read_request(params)


def test_labels_are_for_people() -> None:
    """What the log shows has no control characters."""
    assert parse_build({**GOOD, "name": "Größe 5"}).name == "Größe 5"
    with pytest.raises(InvalidRequestError):
        parse_build({**GOOD, "name": "a\u009bb"})


def test_a_wrong_reference_is_named() -> None:
    """It is what the client wrote in ``from_image``, and what the build ends with."""
    with pytest.raises(InvalidRequestError, match="'not a ref!' is not a valid image reference"):
        parse_build({**GOOD, "parent": None, "image": {"reference": "not a ref!"}})
