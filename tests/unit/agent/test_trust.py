"""The agent makes programs trust the sandbox's authority: in the bundle, for update-ca-certificates, and in Java's store."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from cloister.agent.events import EventLog
from cloister.agent.java_store import replace_certificate
from cloister.agent.trust import follow_authority, set_authority
from cloister.errors import InvalidRequestError
from cloister.tls.sandbox_authority import authority_of
from cloister.tls.trusted import to_java_truststore

FIRST, SECOND = (authority_of(b"s" * 32, name).pem for name in ("a", "b"))
HOST = authority_of(b"h" * 32, "host")
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
OWN = "usr/local/share/ca-certificates/e2b-ca.crt"
JAVA = "etc/ssl/certs/java/cacerts"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a bundle and Java's store, of one certificate of the host."""
    for name, content in ((BUNDLE, HOST.pem.encode()), (JAVA, to_java_truststore([HOST.certificate]))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def bundle(root: Path) -> str:
    """The bundle's text."""
    return (root / BUNDLE).read_text()


def test_an_authority_comes_beside_the_hosts(root: Path) -> None:
    """In the bundle, and as the file that update-ca-certificates reads."""
    assert set_authority(FIRST, root) == []
    assert bundle(root) == HOST.pem + FIRST
    assert (root / OWN).read_text() == FIRST
    assert (root / BUNDLE).stat().st_mode & 0o777 == 0o644


def test_the_same_authority_changes_nothing(root: Path) -> None:
    """As for an agent that is started again."""
    set_authority(FIRST, root)
    before = [(root / name).stat().st_ino for name in (BUNDLE, JAVA)]
    set_authority(FIRST, root)
    assert bundle(root) == HOST.pem + FIRST
    assert [(root / name).stat().st_ino for name in (BUNDLE, JAVA)] == before


def test_a_copy_trusts_its_own_authority_alone(root: Path) -> None:
    """The original's goes."""
    set_authority(FIRST, root)
    set_authority(SECOND, root)
    assert bundle(root) == HOST.pem + SECOND
    assert (root / OWN).read_text() == SECOND


def test_no_authority_leaves_what_was_there(root: Path) -> None:
    """Only the checksum of Java's store stays away."""
    java = (root / JAVA).read_bytes()
    set_authority(FIRST, root)
    set_authority("", root)
    assert bundle(root) == HOST.pem
    assert not (root / OWN).exists()
    assert (root / JAVA).read_bytes()[4:] == java[4 : len((root / JAVA).read_bytes())]


def test_without_rules_no_file_is_touched(tmp_path: Path) -> None:
    """Only sandboxes with rules pay."""
    set_authority("", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_image_without_any_certificates_gets_a_bundle(tmp_path: Path) -> None:
    """And no Java store."""
    assert set_authority(FIRST, tmp_path) == []
    assert bundle(tmp_path) == FIRST
    assert not (tmp_path / JAVA).exists()


@pytest.mark.parametrize("pem", ["x", FIRST + SECOND, FIRST[:-1], "-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----\n"])
def test_other_text_is_refused(root: Path, pem: str) -> None:
    """And changes nothing."""
    with pytest.raises(InvalidRequestError):
        set_authority(pem, root)
    assert bundle(root) == HOST.pem


def test_a_pipe_in_place_of_a_file_does_not_hold_up_the_agent(root: Path) -> None:
    """A program in the sandbox may have put it there; the log says that it is in the way."""
    (root / BUNDLE).unlink()
    os.mkfifo(root / BUNDLE)
    with pytest.raises(OSError, match="no regular file"):
        set_authority(FIRST, root)


def test_the_log_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is no exception for the agent."""
    log = EventLog()
    assert not follow_authority("x", log)
    assert log.since(0)[0].kind == "authority.not_trusted"


def test_the_java_store_has_both_certificates(root: Path) -> None:
    """As keytool lists it, where there is a JDK."""
    set_authority(FIRST, root)
    store = (root / JAVA).read_bytes()
    for pem in (HOST.pem, FIRST):
        assert store.count(ssl.PEM_cert_to_DER_cert(pem)) == 1
    if shutil.which("keytool"):
        listing = ["keytool", "-list", "-keystore", str(root / JAVA), "-storepass", ""]
        assert subprocess.run(listing, capture_output=True, text=True, check=True).stdout.count("trustedCertEntry") == 2


def test_a_java_store_of_another_form_is_left_alone(root: Path) -> None:
    """The log says that Java programs lack the authority."""
    (root / JAVA).write_bytes(b"\xfe\xed\xfe\xed another form")
    notes = set_authority(FIRST, root)
    assert len(notes) == 1
    assert (root / JAVA).read_bytes() == b"\xfe\xed\xfe\xed another form"


def test_damaged_java_stores_are_refused() -> None:
    """Any part of a store that is cut off, and any single byte of its frame that is changed, gives None or a store, never an error."""
    store = to_java_truststore([HOST.certificate])
    for length in range(len(store)):
        assert replace_certificate(store[:length], b"", b"x") is None
    for at in range(80):
        for value in (0, 0x7F, 0x80, 0x84, 0xFF):
            replace_certificate(store[:at] + bytes([value]) + store[at + 1 :], b"", b"x")
