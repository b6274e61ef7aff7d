"""Equivalents of well-known images without a registry, made of packages; needs Debian's archive and npm's registry."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.template.bootstrap import Bootstrap, host_mirror
from cloister.template.images.library import NodeImageLibrary
from cloister.template.images.reference import ImageMap
from cloister.template.images.tools import ImageTools
from cloister.template.progress import PlainProgress
from cloister.template.stockbuilder import StockBuildContext
from framework.build_node import build_node
from framework.image_node import ImageNode
from framework.image_tools import ensure_tree

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[ImageNode]:
    """Docker's registry is mapped to a name that does not exist."""
    layers = (*ensure_tree("images"), *ensure_tree("bookworm"))
    with build_node(further_layers=layers) as node:
        context = StockBuildContext(
            store=node.store,
            run_step=node.host.run_step,
            progress=PlainProgress(io.StringIO()),
            host_layer=node.host.host_layer,
            bootstrap=Bootstrap(mirror=host_mirror(Path("/etc"), "bookworm")),
        )
        image_map = ImageMap(("docker.io/*=registry.invalid/*",))
        yield ImageNode(node, NodeImageLibrary(node.store, node.build_sandboxes, ImageTools(context), image_map))


@pytest.mark.parametrize(
    ("reference", "command", "said"),
    [
        ("python:3", "python --version; python3 -c 'print(3)'; pip --version | cut -c1-4", "Python 3.13"),
        ("python:3.11-slim", "python --version; python3 -c 'print(3)'; pip --version | cut -c1-4", "Python 3.11"),
        ("node:lts", "node --version", "v20."),
        ("node:22", "npm --version; node --version", "10."),
        ("oven/bun:latest", "bun --version", "1."),
        ("ubuntu:24.04", "cat /etc/debian_version", "13"),
        ("debian:stable", "cat /etc/debian_version", "13"),
        ("debian:bookworm-slim", "cat /etc/debian_version", "12"),
    ],
)
def test_it_is_the_version_that_was_asked_for(node: ImageNode, reference: str, command: str, said: str) -> None:
    """And the log says what it is; for Ubuntu that is Debian."""
    base = node.base(reference)
    assert "instead of docker.io/" in node.log
    assert node.run(base, command).startswith(said)


@pytest.mark.parametrize("reference", ["python:3", "python:3.11"])
@pytest.mark.parametrize("user", ["root", "user"])
def test_pip_installs_without_further_options(node: ImageNode, reference: str, user: str) -> None:
    """As in the official image: no word of an environment that is managed externally, and the package is found."""
    said = node.run(
        node.base(reference), "pip install -q --no-warn-script-location six && python -c 'import six; print(six.__name__)'", user=user
    )
    assert said == "six\n"


def test_programs_of_buns_global_packages_are_for_all(node: ImageNode) -> None:
    """As ``bun_install(g=True)`` does it: root installs, another runs it."""
    install = "bun install -g cowsay > /tmp/log 2>&1 || cat /tmp/log; runuser -u user -- cowsay moo | grep -o moo"
    assert node.run(node.base("oven/bun:latest"), install, user="root") == "moo\n"


def test_packages_of_a_release_come_from_its_own_archive(node: ImageNode) -> None:
    """The host's mirrors are for the base template's release; above Debian 12 they must not be."""
    install = "(apt-get -q update && apt-get -q -y install tree) > /tmp/log 2>&1 || cat /tmp/log; tree --version"
    said = node.run(node.base("debian:12"), install, user="root")
    assert said.startswith("tree v2.1")


def test_npm_of_that_node_installs(node: ImageNode) -> None:
    """Programs for everybody, where they are found."""
    said = node.run(
        node.base("node:22"), "npm install -g --silent cowsay > /dev/null && cowsay moo | head -n 2; npx --version", user="root"
    )
    assert "< moo >" in said


def test_npm_keeps_the_hosts_settings(node: ImageNode) -> None:
    """Also the npm that works below another prefix."""
    assert node.run(node.base("node:22"), "npm config get cafile").strip() == "/etc/ssl/certs/ca-certificates.crt"
