"""``cloister ca``: the local certificate authority of a server, and how to have clients trust it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import NameConstraints

from cloister.cli.certificates import server_names, write_bundle
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import InvalidRequestError
from cloister.tls.authority import ca_file, create_authority, read_certificate

__all__ = ["add_parser", "run"]

_TRUST = """The authority may certify only {names}.
Its certificate is {ca}; copy it to each client. Its key never leaves this server.

Debian, Ubuntu (system-wide; curl, git, Go, and Python and Node programs that use the system's store):
  install -m 0644 ca.crt /usr/local/share/ca-certificates/cloister.crt && update-ca-certificates
Fedora, RHEL:
  install -m 0644 ca.crt /etc/pki/ca-trust/source/anchors/cloister.crt && update-ca-trust

Python SDK (one bundle replaces the system's, so it must hold both; on this server it is {bundle}):
  cat /etc/ssl/certs/ca-certificates.crt ca.crt > bundle.crt; export SSL_CERT_FILE=$PWD/bundle.crt
JavaScript SDK and E2B command line (is added to Node's own):
  export NODE_EXTRA_CA_CERTS=$PWD/ca.crt
curl, once:
  curl --cacert ca.crt https://api.{domain}/health

Firefox: Settings, Privacy & Security, View Certificates, Authorities, Import; tick "identify websites".
Chrome on Linux: chrome://certificate-manager, Custom, Installed by you, Import.
macOS: security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db ca.crt
Windows: certutil -user -addstore Root ca.crt
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("ca", help="the local certificate authority for TLS without a bought certificate")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make it (serve does so too when it needs one)")
    init.add_argument("--replace", action="store_true", help="make a new one; clients must trust it anew")
    show = actions.add_parser("show", help="print its certificate, with names and fingerprint")
    trust = actions.add_parser("trust-help", help="print how clients come to trust it")
    for action in (init, show, trust):
        add_arguments(action, "data_dir", "domain", "listen", "listen_tls")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    {"init": _init, "show": _show, "trust-help": _explain_trust}[args.action](settings, args)
    return 0


def _init(settings: Settings, args: argparse.Namespace) -> None:
    if settings.domain is None:
        raise InvalidRequestError("the authority is made for one domain", hint="give --domain, or set it as serve gets it")
    create_authority(settings.data_dir, server_names(settings), replace=args.replace)
    write_bundle(settings.data_dir)
    print(f"made {ca_file(settings.data_dir)} for {_names(settings.data_dir)}")
    print("how to have clients trust it: cloister ca trust-help")


def _show(settings: Settings, _args: argparse.Namespace) -> None:
    certificate = read_certificate(settings.data_dir)
    print(f"file: {ca_file(settings.data_dir)}")
    print(f"subject: {certificate.subject.rfc4514_string()}")
    print(f"may certify: {_names(settings.data_dir)}")
    print(f"valid until: {certificate.not_valid_after_utc:%Y-%m-%d}")
    print(f"SHA-256: {certificate.fingerprint(hashes.SHA256()).hex(':')}")
    print(certificate.public_bytes(Encoding.PEM).decode(), end="")


def _explain_trust(settings: Settings, _args: argparse.Namespace) -> None:
    path = ca_file(settings.data_dir)
    names = _names(settings.data_dir)
    print(_TRUST.format(names=names, ca=path, bundle=path.with_name("bundle.crt"), domain=settings.domain or "<domain>"), end="")


def _names(data_dir: Path) -> str:
    permitted = read_certificate(data_dir).extensions.get_extension_for_class(NameConstraints).value.permitted_subtrees or []
    return ", ".join(str(item.value) for item in permitted)
