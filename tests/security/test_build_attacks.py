"""Attacks by way of a template build: what a step may neither keep, nor reach, nor write."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cloister.errors import BuildError
from cloister.model.build import BuildStep
from framework.build_lab import BuildLab
from framework.build_node import BuildNode, build_node

pytestmark = [pytest.mark.root, pytest.mark.templates]


def _certificate() -> bytes:
    """Of an authority that only this host trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of this host")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    return made.not_valid_before(start).not_valid_after(start + dt.timedelta(days=9000)).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with such a certificate."""
    path = tmp_path_factory.mktemp("ca") / "extra.pem"
    path.write_bytes(_certificate())
    return path


@pytest.fixture(scope="module")
def node(stock_templates: None, certificate: Path) -> Iterator[BuildNode]:
    """A node whose host layer has that certificate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOISTER_EXTRA_CA_FILE", str(certificate))
        with build_node() as made:
            yield made


@pytest.fixture
def lab(node: BuildNode, tmp_path: Path) -> BuildLab:
    """A client's builds on it."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    return BuildLab(node, uploads)


def run(command: str, user: str = "root") -> BuildStep:
    """A RUN."""
    return BuildStep(kind="RUN", args=(command, user))


def _files(root: Path) -> list[Path]:
    return [Path(directory) / name for directory, _names, files in os.walk(root) for name in files]


def test_template_cannot_keep_files_of_the_host(lab: BuildLab, certificate: Path) -> None:
    """No layer has the changes that a step makes to the host's files, or the bundle that update-ca-certificates makes."""
    host = lab.node.host.host_layer.path
    theirs = [path.relative_to(host) for path in _files(host)]
    pem = certificate.read_bytes().strip().split(b"\n")[1]
    assert any(pem in (host / name).read_bytes() for name in theirs), "the host layer of this test has the certificate"
    changed = " ".join(f"/{name}" for name in theirs)
    made = lab.build(
        run(f"update-ca-certificates --fresh; for file in {changed}; do echo '# mine' >> $file; chmod 777 $file; done; touch /opt/mine"),
        run(f"rm {changed}; mkdir -p /etc/ca-certificates/host; touch /etc/ca-certificates/host/more /opt/mine2"),
    )
    grown = [lab.node.store.rootfs(key) for key in made.layers[-2:]]
    assert [(root / "opt" / name).exists() for root, name in zip(grown, ("mine", "mine2"), strict=True)] == [True, True]
    assert [name for name in theirs for root in grown if os.path.lexists(root / name)] == []
    assert [path for root in grown for path in _files(root) if not path.is_symlink() and path.is_file() and pem in path.read_bytes()] == []
    assert lab.look(made, "grep -l mine /etc/pip.conf || echo unchanged") == "unchanged\n"


def test_step_cannot_read_archives_of_others(lab: BuildLab) -> None:
    """An uploaded archive is seen by the COPY that it belongs to alone."""
    secret = lab.copy({"secret": "of another step"}, "secret", "/opt/x")
    lab.build(secret, run("ls -lR /.cloister/context /.cloister/from /.cloister/to 2> /dev/null; rm /opt/x; true"))
    assert not [line for line in lab.log.lines() if "archive" in line]


@pytest.mark.parametrize(
    "tree",
    [
        {"l": "-> /", "l/proc/sys/kernel/hostname": "x"},
        {"l": "-> /.cloister", "l/agent/evil": "x"},
        {"l": "-> /proc/1/root", "l/evil-of-a-test": "x"},
        {"l": "-> ../../../../..", "l/evil-of-a-test": "x"},
    ],
)
def test_archive_cannot_write_on_the_host(lab: BuildLab, tree: dict[str, str | None]) -> None:
    """A link in an archive leads nowhere but to the template's own files."""
    step = lab.copy(tree, ".", "/srv/x")
    try:
        made = lab.build(step)
    except BuildError:
        pass
    else:
        assert lab.look(made, "cat /evil-of-a-test 2> /dev/null; true") == "x"
    assert not Path("/evil-of-a-test").exists()
    agent = lab.node.place.agent_tree().agent
    assert not (agent / "evil").exists()


def test_step_cannot_answer_for_our_program(lab: BuildLab) -> None:
    """COPY, USER and WORKDIR do not run programs and libraries with which an image replaces others."""
    hostile = "for tool in tar python3 bash sh cp chown useradd; do printf '#!/bin/sh\\ntouch /opt/ran\\n' > $(command -v $tool); done 2> /dev/null"
    forged = "; echo /opt/evil.so > /etc/ld.so.preload"
    made = lab.build(
        run(hostile + forged),
        lab.copy({"a": "1"}, "a", "/opt/a", "0:0"),
    )
    top = lab.node.store.rootfs(made.layers[-1])
    assert (top / "opt" / "a").read_text() == "1"
    assert not (top / "opt" / "ran").exists()
