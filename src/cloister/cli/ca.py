"""``cloister ca``: the local certificate authority of a server, and how clients come to trust it."""

from __future__ import annotations

import argparse
import json
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import InvalidRequestError
from cloister.tls.authority import ca_file, create_authority, permitted_names, read_certificate
from cloister.tls.reloader import server_names, write_bundle

__all__ = ["add_options", "run"]

_TRUST = """The authority may certify only {names}.
Its certificate is {ca}; copy it to each client. Its key never leaves this server.

Debian, Ubuntu (system-wide: curl, git, Go, and Python and Node programs that use the system's store):
  install -m 0644 ca.crt /usr/local/share/ca-certificates/cloister.crt && update-ca-certificates
Fedora, RHEL:
  install -m 0644 ca.crt /etc/pki/ca-trust/source/anchors/cloister.crt && update-ca-trust

Python SDK (one bundle replaces the system's, so it must hold both; on this server it is {bundle}):
  cat /etc/ssl/certs/ca-certificates.crt ca.crt > bundle.crt; export SSL_CERT_FILE=$PWD/bundle.crt
JavaScript SDK and E2B command line (added to Node's own list):
  export NODE_EXTRA_CA_CERTS=$PWD/ca.crt
curl, once:
  curl --cacert ca.crt https://api.{domain}/health

Firefox: Settings, Privacy & Security, View Certificates, Authorities, Import; tick "identify websites".
Chrome on Linux: chrome://certificate-manager, Custom, Installed by you, Import.
macOS: security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db ca.crt
Windows: certutil -user -addstore Root ca.crt
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="create it; serve also does so when it needs one")
    init.add_argument("--replace", action="store_true", help="create a new one; clients must trust it again")
    show = actions.add_parser("show", help="print its certificate, its names and its fingerprint")
    show.add_argument("--json", action="store_true", help="print JSON")
    trust = actions.add_parser("trust-help", help="print how to make clients trust it")
    for action in (init, show, trust):
        add_arguments(action, "data_dir", "domain", "listen", "listen_tls")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    {"init": _init, "show": _show, "trust-help": _explain_trust}[args.action](settings, args)
    return 0


def _init(settings: Settings, args: argparse.Namespace) -> None:
    if settings.public_domain is None:
        raise InvalidRequestError("the authority needs the domain of the server", hint="give --domain, or set domain as for serve")
    create_authority(settings.data_dir, server_names(settings), replace=args.replace)
    write_bundle(settings.data_dir)
    print(f"made {ca_file(settings.data_dir)} for {permitted_names(settings.data_dir)}")
    print("to make clients trust it: cloister ca trust-help")


def _show(settings: Settings, args: argparse.Namespace) -> None:
    certificate = read_certificate(settings.data_dir)
    facts = {
        "file": str(ca_file(settings.data_dir)),
        "subject": certificate.subject.rfc4514_string(),
        "may certify": str(permitted_names(settings.data_dir)),
        "valid until": f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        "SHA-256": certificate.fingerprint(hashes.SHA256()).hex(":"),
    }
    pem = certificate.public_bytes(Encoding.PEM).decode()
    if args.json:
        print(json.dumps({name.replace(" ", "_").replace("-", "").lower(): fact for name, fact in facts.items()} | {"pem": pem}, indent=1))
        return
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    print(pem, end="")


def _explain_trust(settings: Settings, _args: argparse.Namespace) -> None:
    path = ca_file(settings.data_dir)
    names = permitted_names(settings.data_dir)
    print(_TRUST.format(names=names, ca=path, bundle=path.with_name("bundle.crt"), domain=settings.public_domain or "<domain>"), end="")
