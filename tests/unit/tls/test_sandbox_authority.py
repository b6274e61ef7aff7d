"""The authority of a sandbox: the same after a restart, another for each sandbox, and certificates that TLS libraries accept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.errors import InvalidRequestError
from cloister.tls.sandbox_authority import SandboxAuthorities, authority_of, open_secret

SECRET = b"s" * 32


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """A second opening reads it."""
    secret = open_secret(tmp_path)
    assert open_secret(tmp_path) == secret
    assert SandboxAuthorities(tmp_path).secret == secret
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("content", "mode"), [(b"x" * 31, 0o600), (b"x" * 33, 0o600), (b"x" * 32, 0o640)])
def test_a_damaged_secret_is_refused(tmp_path: Path, content: bytes, mode: int) -> None:
    """A new one would take the trust of all live sandboxes."""
    open_secret(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(InvalidRequestError, match="that only its owner may read"):
        open_secret(tmp_path)


def test_a_link_in_place_of_the_secret_is_not_followed(tmp_path: Path) -> None:
    """It would name another file."""
    open_secret(tmp_path)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_secret(tmp_path)


def test_an_authority_is_the_same_each_time(tmp_path: Path) -> None:
    """To the last byte of its certificate."""
    first, second = (SandboxAuthorities(tmp_path).pem("a") for _ in range(2))
    assert first == second
    assert authority_of(SECRET, "a").pem == authority_of(SECRET, "a").pem


def test_sandboxes_and_servers_have_different_keys() -> None:
    """Neither the secret nor the id alone gives the key."""
    keys = {authority_of(secret, name).key.private_numbers().private_value for secret in (SECRET, b"t" * 32) for name in ("a", "b", "ab")}
    assert len(keys) == 6


def test_a_certificate_is_accepted_for_its_name_alone(tmp_path: Path) -> None:
    """By openssl's strict rules."""
    authority = authority_of(SECRET, "a")
    ca, leaf = tmp_path / "ca.pem", tmp_path / "leaf.pem"
    ca.write_text(authority.pem)
    leaf.write_bytes(authority.issue("api.example.com"))
    for name, accepted in (("api.example.com", True), ("www.example.com", False), ("example.com", False)):
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca), "-purpose", "sslserver", "-verify_hostname", name]
        done = subprocess.run([*command, str(leaf)], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == accepted, done.stdout + done.stderr


def test_an_issued_certificate_is_no_authority() -> None:
    """And has a key of its own, each time."""
    pems = [authority_of(SECRET, "a").issue("a" * 63 + ".example.com") for _ in range(2)]
    first, second = (x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :]) for pem in pems)
    assert not first.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(first.public_key(), ec.EllipticCurvePublicKey)
    assert first.public_key() != second.public_key()
