"""How a machine joins a cluster, and how an operator looks at a cluster's nodes: for commands of root's."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from cloister.cluster.remote import NodeAddress, RemoteNode
from cloister.config.settings import Settings
from cloister.control.nodes import Joined, Joining
from cloister.errors import AuthenticationError, CloisterError, InternalError, InvalidRequestError, UnavailableError
from cloister.linux.files import make_directory
from cloister.linux.identity import with_rights_of_owner
from cloister.model.addresses import parse_listen
from cloister.model.cluster import ClusterNode
from cloister.model.node import NodeInfo
from cloister.node.identity import load_node_id
from cloister.store.cluster_keys import read_api_keys, write_node_keys
from cloister.tls.cluster import calling_context, make_request, name_of_node
from cloister.tls.joining import JoinToken, check_mark, mark

__all__ = ["SeenNode", "join_cluster", "look_at"]

_ANSWER_S = 30.0
_LOOK_S = 3.0
_MOST_BYTES = 1 << 20


def join_cluster(settings: Settings, api_url: str, token_text: str, address: str) -> str:
    """Make this machine a node of the cluster; its id. Raises: InvalidRequestError, AuthenticationError, UnavailableError, OSError."""
    token = JoinToken.parse(token_text)
    parse_listen(address)
    make_directory(settings.data_dir, 0o755, keep=True)
    make_directory(settings.data_dir / "node", 0o700, keep=True)
    node_id = load_node_id(settings.data_dir / "node")
    key, request = make_request(node_id)
    joining = Joining(
        token_id=token.token_id,
        expires_at=token.expires_at,
        node_id=node_id,
        address=address,
        request=request,
        nonce=secrets.token_hex(16),
        mark="",
    )
    body = {
        "tokenID": joining.token_id,
        "expiresAt": joining.expires_at,
        "nodeID": node_id,
        "address": address,
        "request": request,
        "nonce": joining.nonce,
        "mark": mark(token, "node", joining.said),
    }
    joined = _post(f"{api_url.rstrip('/')}/cluster/join", body)
    check_mark(token, "cluster", joined.said(joining.nonce), joined.mark)
    authority, own = joined.authority.encode(), key + joined.certificate.encode()
    with_rights_of_owner(settings.data_dir / "api", lambda: write_node_keys(settings.data_dir, authority, own))
    return node_id


def _post(url: str, body: dict[str, object]) -> Joined:
    if not url.startswith(("http://", "https://")):
        raise InvalidRequestError("--api takes a URL, such as https://api.sandbox.example.com")
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - as above
            found = json.loads(answer.read(_MOST_BYTES))
        return Joined(certificate=str(found["certificate"]), authority=str(found["authority"]), mark=str(found["mark"]))
    except urllib.error.HTTPError as error:
        said = error.read(_MOST_BYTES).decode(errors="replace")[:500]
        kind = AuthenticationError if error.code in (401, 403) else InvalidRequestError
        raise kind(f"the cluster refuses: {said}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"{url} does not answer as an api process of a cluster: {error}", hint="is --api right?") from error


@dataclass(frozen=True)
class SeenNode:
    """A node, and its report or the reason why there is none."""

    row: ClusterNode
    info: NodeInfo | None
    trouble: str


async def look_at(settings: Settings, rows: Sequence[ClusterNode]) -> Sequence[SeenNode]:
    """Ask each node for its report, from this machine. Raises: NotFoundError, UnusableStateError: no keys of an api process are here."""
    keys = with_rights_of_owner(settings.data_dir / "api", lambda: read_api_keys(settings.data_dir))
    context = calling_context(keys.own, keys.authority)

    async def look(row: ClusterNode) -> SeenNode:
        host, port = parse_listen(row.address)
        link = RemoteNode(NodeAddress(host, port, name_of_node(row.node_id)), context)
        try:
            info = await link.report(_LOOK_S)
            if info.node_id != row.node_id:
                raise InternalError(f"its gate leads to {info.node_id}")
        except CloisterError as error:
            return SeenNode(row, None, error.message)
        return SeenNode(row, info, "")

    return await asyncio.gather(*map(look, rows))

