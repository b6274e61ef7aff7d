"""Requests that cannot be carried out are refused before anything is built, by the number of the step."""

from __future__ import annotations

import pytest

from cloister.errors import BuildError
from cloister.model.build import MAX_STEPS, BuildRequest, BuildStep, ImageSource, UploadedArchive
from cloister.template.building.stepcheck import check_request

_FILES = UploadedArchive(path="a", digest="0" * 64)
_GOOD = BuildStep(kind="RUN", args=("true",))


def _request(*steps: BuildStep, **fields: object) -> BuildRequest:
    image = ImageSource(reference="x")
    return BuildRequest(**{"build_id": "b", "template_id": "t", "team_id": "m", "name": "n", "image": image, "steps": steps, **fields})  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("kind", "args", "told"),
    [
        ("ADD", ("a", "b"), "no step of the kind 'ADD'"),
        ("RUN", (), "RUN takes 1 to 2 arguments, not 0"),
        ("RUN", ("a", "b", "c"), "arguments"),
        ("RUN", ("  ",), "needs a command"),
        ("RUN", ("a\0",), "NUL"),
        ("RUN", ("\ud800",), "Unicode"),
        ("RUN", ("x" * 131_001,), "at most"),
        ("RUN", ("a", "bad user"), "not the name of a user"),
        ("WORKDIR", ("",), "path"),
        ("WORKDIR", ("x" * 5000,), "path"),
        ("WORKDIR", ("a", "b"), "WORKDIR takes 1 arguments"),
        ("USER", ("",), "not the name of a user"),
        ("USER", ("a:b:c",), "not the name of a user"),
        ("USER", ("-x",), "not the name of a user"),
        ("USER", ("a\nb",), "not the name of a user"),
        ("USER", ("a", "maybe"), "true or false"),
        ("ENV", ("A",), "arguments"),
        ("ENV", ("A", "1", "B"), "a value for each name"),
        ("ENV", ("A=B", "1"), "not the name of a variable"),
        ("ENV", ("", "1"), "not the name of a variable"),
        ("ENV", ("A B", "1"), "not the name of a variable"),
        ("ENV", ("A\n", "1"), "not the name of a variable"),
        ("ENV", ("A", "x" * 100_001), "longer than"),
        ("COPY", ("", "b"), "relative path"),
        ("COPY", ("/a", "b"), "relative path"),
        ("COPY", ("../a", "b"), "relative path"),
        ("COPY", ("a/../../b", "b"), "relative path"),
        ("COPY", ("a", ""), "path"),
        ("COPY", ("a", "b", "bad owner"), "not the name of a user"),
        ("COPY", ("a", "b", "", "999"), "octal mode"),
        ("COPY", ("a", "b", "", "u+x"), "octal mode"),
        ("COPY", ("a", "b", "", "17777"), "octal mode"),
        ("COPY", ("a",), "arguments"),
    ],
)
def test_bad_steps(kind: str, args: tuple[str, ...], told: str) -> None:
    """The error has the step's number and says what is wrong."""
    with pytest.raises(BuildError, match=told) as caught:
        check_request(_request(_GOOD, BuildStep(kind=kind, args=args, files=_FILES)))
    assert caught.value.step == "2"


@pytest.mark.parametrize("files", [None, UploadedArchive(path="a", digest="x")])
def test_copy_needs_its_files(files: UploadedArchive | None) -> None:
    """With a digest of ours."""
    with pytest.raises(BuildError, match="COPY has no") as caught:
        check_request(_request(BuildStep(kind="COPY", args=("a", "b"), files=files)))
    assert caught.value.step == "1"


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("RUN", ("a", "user")), ("RUN", ("a", "1000:1000")), ("RUN", ("a", "$U")), ("WORKDIR", ("relative",)), ("WORKDIR", ("~/$A",)),
        ("USER", ("Some.one-else_1",)), ("USER", ("1000",)), ("USER", ("node:node",)), ("USER", ("a", "true")), ("USER", ("${U:-x}",)),
        ("ENV", ("my.var", "")), ("ENV", ("A", "a\nb", "B", "é")), ("COPY", ("a", "b")), ("COPY", ("a/../b", "$D/", "1000:1000", "0755")),
        ("COPY", ("**/*.py", ".", "root", "644")),
    ],
)  # fmt: skip
def test_good_steps(kind: str, args: tuple[str, ...]) -> None:
    """What the SDKs send."""
    check_request(_request(BuildStep(kind=kind, args=args, files=_FILES)))


def test_requests() -> None:
    """One base, and a bounded number of steps."""
    check_request(_request(*[_GOOD] * MAX_STEPS))
    for bad in (_request(*[_GOOD] * (MAX_STEPS + 1)), _request(image=None), _request(parent="p")):
        with pytest.raises(BuildError) as caught:
            check_request(bad)
        assert caught.value.step == "base"
