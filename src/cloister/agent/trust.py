"""Makes programs in the sandbox trust the authority of its egress process, beside all others that they trust already.

Owns ``/usr/local/share/ca-certificates/e2b-ca.crt``, from which ``update-ca-certificates`` takes it, and its entries in the certificate
bundle and in Java's trust store. The variables that name the bundle (``SSL_CERT_FILE`` and others) come with the host layer. A new
authority replaces the former one, and a sandbox without header rules has none. Needs no library, and no directory to exist.
"""

from __future__ import annotations

import binascii
import os
import re
import secrets
import stat
from pathlib import Path

from cloister.agent.events import EventLog
from cloister.agent.java_store import replace_certificate
from cloister.errors import InvalidRequestError

__all__ = ["follow_authority", "set_authority"]

_OWN = "usr/local/share/ca-certificates/e2b-ca.crt"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_JAVA_STORE = "etc/ssl/certs/java/cacerts"
_MAX_BYTES = 64 << 10
_MAX_STORE_BYTES = 16 << 20
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)-----END CERTIFICATE-----\n\Z")


def follow_authority(pem: str, events: EventLog) -> bool:
    """:func:`set_authority` with the outcome in the sandbox's log. False: programs in the sandbox may not trust the authority."""
    try:
        for note in set_authority(pem):
            events.record("authority.not_trusted", level="warn", reason=note)
    except (OSError, InvalidRequestError) as error:
        events.record("authority.not_trusted", level="error", reason=str(error))
        return False
    return True


def set_authority(pem: str, root: Path = Path("/")) -> list[str]:
    """Trust the certificate ``pem``, or none if it is empty, in place of the former one. Gives what could not be changed.

    Raises: InvalidRequestError: it is no certificate; OSError: a file cannot be written.
    """
    former = _read(root / _OWN, _MAX_BYTES)
    new = pem.encode()
    added = _to_der(pem) if pem else b""
    if not former and not new:
        return []
    _change_bundle(root / _BUNDLE, former, new)
    notes = _change_java_store(root / _JAVA_STORE, former, added)
    if new:
        _write(root / _OWN, new)
    else:
        (root / _OWN).unlink()
    return notes


def _change_bundle(path: Path, former: bytes, new: bytes) -> None:
    bundle = _read(path, _MAX_STORE_BYTES)
    changed = bundle.replace(former, b"") if former else bundle
    if new:
        changed += (b"" if changed.endswith(b"\n") or not changed else b"\n") + new
    if changed != bundle:
        _write(path, changed)


def _change_java_store(path: Path, former: bytes, added: bytes) -> list[str]:
    store = _read(path, _MAX_STORE_BYTES)
    if not store:
        return []
    removed = b""
    if former:
        try:
            removed = _to_der(former.decode())
        except (InvalidRequestError, UnicodeDecodeError):
            removed = b""  # a program in the sandbox has changed it
    changed = replace_certificate(store, removed, added)
    if changed is None:
        return [f"/{_JAVA_STORE} is no PKCS #12 file, so Java programs do not trust the sandbox's authority"]
    if changed != store:
        _write(path, changed)
    return []


def _to_der(pem: str) -> bytes:
    match = _CERTIFICATE.match(pem) if len(pem) <= _MAX_BYTES else None
    if match is None:
        raise InvalidRequestError("'caBundle' must be one certificate in PEM form")
    try:
        return binascii.a2b_base64(match[1].replace("\n", ""), strict_mode=True)
    except binascii.Error as error:
        raise InvalidRequestError("'caBundle' must be one certificate in PEM form") from error


def _read(path: Path, limit: int) -> bytes:
    """The content of a regular file; empty if it does not exist. Raises: OSError, also for another kind of file or a longer one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} is too long")
    return content


def _write(path: Path, content: bytes) -> None:
    """Replace a file by one rename, so that no program reads half of it."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
