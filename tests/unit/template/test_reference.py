"""References of images, and the map from them."""

from __future__ import annotations

import pytest

from cloister.errors import BuildError, InvalidRequestError
from cloister.template.images.reference import ImageMap, parse_reference

_DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
        ("oven/bun:latest", "docker.io/oven/bun:latest"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/library/python", "docker.io/library/python:latest"),
        ("ghcr.io/a/b/c:1", "ghcr.io/a/b/c:1"),
        ("localhost/x", "localhost/x:latest"),
        ("registry:5000/x", "registry:5000/x:latest"),
        ("registry.corp:5000/team/x:v1", "registry.corp:5000/team/x:v1"),
        ("[2001:db8::1]:5000/x", "[2001:db8::1]:5000/x:latest"),
        (f"python@{_DIGEST}", f"docker.io/library/python@{_DIGEST}"),
        (f"python:3@{_DIGEST}", f"docker.io/library/python@{_DIGEST}"),
        (" docker://debian:stable\n", "docker.io/library/debian:stable"),
        ("a__b/c-d.e_f", "docker.io/a__b/c-d.e_f:latest"),
    ],
)
def test_reference_is_written_out_in_full(written: str, full: str) -> None:
    """As Docker does it: host, ``library/``, tag."""
    assert str(parse_reference(written)) == full


@pytest.mark.parametrize(
    "written",
    [
        "", ":", "Python", "python:", "python:a b", "python@sha256:12", "a//b", "/python", "python/", "x/../y", "-x", "--option",
        "host:port/x", "https://example.com/x", "x:" + "a" * 129, "x" * 300, "python@md5:00", "pyth\non", "é",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(written: str) -> None:
    """With an example of one."""
    with pytest.raises(BuildError, match="not a valid image reference") as caught:
        parse_reference(written)
    assert caught.value.hint


def test_scratch_is_no_image() -> None:
    """Docker's word for an empty image. A user's repository may have that name."""
    with pytest.raises(BuildError, match="'scratch' is not one"):
        parse_reference("scratch")
    assert str(parse_reference("someone/scratch")) == "docker.io/someone/scratch:latest"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("e2bdev/base", "base"),
        ("e2bdev/base:latest", "base"),
        ("docker.io/e2bdev/code-interpreter:v3", "code-interpreter-v1"),
        ("e2bdev/desktop:latest", "desktop"),
        ("python:3", "registry.corp:5000/hub/library/python:3"),
        (f"python@{_DIGEST}", f"registry.corp:5000/hub/library/python@{_DIGEST}"),
        ("quay.io/team/x:1", "quay.io/team/x:1"),
        ("ubuntu:22.04", "mirror.corp/ubuntu:22.04"),
        ("node:20", "mirror.corp/node:21"),
        ("node:22", "registry.corp:5000/hub/library/node:22"),
        ("ghcr.io/ours/any/thing:2", "mine"),
    ],
)
def test_map_takes_the_first_that_matches(written: str, found: str) -> None:
    """Exact references, names of every tag, and prefixes; those of the setting come before those that are built in."""
    entries = ("ubuntu=mirror.corp/ubuntu", "node:20=mirror.corp/node:21", "ghcr.io/ours/*=template:mine")
    image_map = ImageMap((*entries, "docker.io/library/*=registry.corp:5000/hub/library/*"))
    assert str(image_map.find(parse_reference(written))) == found


def test_setting_wins_over_what_is_built_in() -> None:
    """``e2bdev/base`` can be a mirror's."""
    assert str(ImageMap(("e2bdev/base=mirror.corp/base",)).find(parse_reference("e2bdev/base"))) == "mirror.corp/base:latest"


@pytest.mark.parametrize("entry", ["x", "=y", "x=", "x=y/*", "x/*=y", "X=y", "x=UPPER"])
def test_malformed_entry_is_named(entry: str) -> None:
    """At the start, not at the first build."""
    with pytest.raises(InvalidRequestError, match="image_map"):
        ImageMap((entry,))
