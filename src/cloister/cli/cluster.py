"""``cloister cluster``: makes a cluster in the data directory of an api process, and tokens by which nodes join it."""

from __future__ import annotations

import argparse
import os
import time

from cloister.cli.recording import recorded
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import AlreadyExistsError, InvalidRequestError, PermissionDeniedError
from cloister.ids import is_node_id
from cloister.linux.identity import with_rights_of_owner
from cloister.store.cluster_keys import cluster_dir, has_api_keys, read_api_keys, write_api_keys
from cloister.tls.cluster import make_cluster_authority
from cloister.tls.joining import MOST_S, make_token

__all__ = ["add_options", "run"]

_HOUR_S = 3600


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make the cluster's authority, and the certificate of its api processes")
    token = actions.add_parser("token", help="print a token by which one node joins")
    token.add_argument("--lifetime", metavar="S", type=int, default=_HOUR_S, help=f"seconds until it expires, up to {MOST_S} [{_HOUR_S}]")
    token.add_argument("--node", metavar="ID", default="", help="for this node to join again, and no other; without it, for a new one")
    for action in (init, token):
        add_arguments(action, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("the cluster's keys belong to the server", hint="run this as root")
    {"init": _init, "token": _token}[args.action](settings, args)
    return 0


def _init(settings: Settings, _args: argparse.Namespace) -> None:
    if has_api_keys(settings.data_dir):
        raise AlreadyExistsError(f"there is a cluster already: {cluster_dir(settings.data_dir)}")
    authority = make_cluster_authority()
    own = authority.certify_caller()
    with_rights_of_owner(settings.data_dir / "api", lambda: write_api_keys(settings.data_dir, authority.certificate, authority.key, own))
    print(f"made {cluster_dir(settings.data_dir)}: copy it to the data directory of each further api process, and keep it secret")
    print("start the API: cloister serve --role api; for each node: cloister cluster token, then there: cloister node join")


def _token(settings: Settings, args: argparse.Namespace) -> None:
    if args.lifetime <= 0:
        raise InvalidRequestError("--lifetime takes a number of seconds above 0")
    if args.node and not is_node_id(args.node):
        raise InvalidRequestError("--node takes the id of a node", hint="cloister nodes")
    keys = with_rights_of_owner(settings.data_dir / "api", lambda: read_api_keys(settings.data_dir))
    with recorded(settings, "cluster.token", args.node):
        token = make_token(keys.join_key, args.lifetime, time.time(), args.node)
    print(token.revealed)
