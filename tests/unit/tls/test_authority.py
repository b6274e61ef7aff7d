"""The local authority: what it certifies, what it does not, and how its files are kept."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from cloister.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from cloister.tls.authority import ServerNames, ca_file, create_authority, open_authority, read_certificate
from cloister.tls.context import make_context

NAMES = ServerNames("sbx.test", "192.0.2.7")


def _leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem[pem.index(b"-----BEGIN CERTIFICATE") :])[0]


def _verify(directory: Path, pem: bytes, *more: str) -> str:
    chain = directory / "leaf.pem"
    chain.write_bytes(pem)
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", str(ca_file(directory)), "-purpose", "sslserver", *more, str(chain)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_files(tmp_path: Path) -> None:
    """The key is for its owner only, whatever the umask; nothing half-written stays."""
    create_authority(tmp_path, NAMES)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ca").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.crt": 0o644}


def test_server_certificate(tmp_path: Path) -> None:
    """A server certificate has every name and address of the server, is accepted by OpenSSL, and its key fits."""
    pem = create_authority(tmp_path, NAMES).issue(NAMES)
    names = _leaf(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*.sbx.test", "sbx.test", "api.sbx.test", "localhost"]
    assert set(map(str, names.get_values_for_type(x509.IPAddress))) == {"127.0.0.1", "::1", "192.0.2.7"}
    make_context(pem)
    for host in ("8000-abc.sbx.test", "api.sbx.test", "localhost"):
        assert "OK" in _verify(tmp_path, pem, "-verify_hostname", host)
    assert "OK" in _verify(tmp_path, pem, "-verify_ip", "192.0.2.7")


def test_an_authority_is_good_for_its_own_names_only(tmp_path: Path) -> None:
    """Clients refuse a certificate by its key for another name, and the server requests no such certificate."""
    authority = create_authority(tmp_path, NAMES)
    with pytest.raises(InvalidRequestError, match=r"may not certify other\.test"):
        authority.issue(ServerNames("other.test", "192.0.2.7"))
    with pytest.raises(InvalidRequestError, match=r"192\.0\.2\.8"):
        authority.issue(ServerNames("sbx.test", "192.0.2.8"))
    object.__setattr__(authority, "_check", lambda _names: None)
    stolen = authority.issue(ServerNames("bank.example", "192.0.2.7"))
    assert "permitted subtree violation" in _verify(tmp_path, stolen)


def test_addresses_that_stand_for_all(tmp_path: Path) -> None:
    """A listener on all addresses adds none of its own; the loopback ones are always there."""
    pem = create_authority(tmp_path, ServerNames("sbx.test", "0.0.0.0")).issue(ServerNames("sbx.test", "0.0.0.0"))
    names = _leaf(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]


def test_making_opening_replacing(tmp_path: Path) -> None:
    """An authority is made once, opened again, and replaced only on purpose."""
    with pytest.raises(NotFoundError):
        open_authority(tmp_path)
    first = create_authority(tmp_path, NAMES).certificate
    assert open_authority(tmp_path).certificate == first == read_certificate(tmp_path)
    with pytest.raises(AlreadyExistsError):
        create_authority(tmp_path, NAMES)
    assert create_authority(tmp_path, NAMES, replace=True).certificate != first


@pytest.mark.parametrize("damage", ["ca.key", "ca.crt"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    """Files that are damaged, or do not belong together, are refused by name."""
    create_authority(tmp_path, NAMES)
    (tmp_path / "ca" / damage).write_bytes(b"damaged")
    with pytest.raises(InvalidRequestError, match=damage):
        open_authority(tmp_path)
    other = tmp_path / "other"
    create_authority(other, NAMES)
    create_authority(tmp_path, NAMES, replace=True)
    (tmp_path / "ca" / "ca.key").write_bytes((other / "ca" / "ca.key").read_bytes())
    with pytest.raises(InvalidRequestError, match="is not the key of"):
        open_authority(tmp_path)


def test_key_with_a_password_is_refused_not_asked_for(tmp_path: Path) -> None:
    """A private key that needs a password ends in an error, never in a question on the terminal."""
    pem = create_authority(tmp_path, NAMES).issue(NAMES)
    at = pem.index(b"-----BEGIN CERTIFICATE")
    (tmp_path / "plain.key").write_bytes(pem[:at])
    command = ["openssl", "pkcs8", "-topk8", "-in", str(tmp_path / "plain.key"), "-out", str(tmp_path / "locked.key"), "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ssl.SSLError):
        make_context((tmp_path / "locked.key").read_bytes() + pem[at:])
