"""Tokens of a cluster, and the certificates that they lead to."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloister.errors import AuthenticationError, InvalidRequestError
from cloister.tls.cluster import ClusterAuthority, make_cluster_authority, make_request, name_of_node
from cloister.tls.joining import MOST_S, JoinToken, check_mark, make_token, mark, token_of

_KEY = b"k" * 32
_NODE = "node_0123456789abcdef"


def test_a_token_is_read_as_it_was_written() -> None:
    """It expires within the longest time, and the server finds its secret again by its public parts."""
    token = make_token(_KEY, 10 * MOST_S, now=1000.0)
    assert token.expires_at == 1000 + MOST_S
    assert JoinToken.parse(f" {token.revealed}\n") == token == token_of(_KEY, token.token_id, token.expires_at)
    with pytest.raises(InvalidRequestError):
        JoinToken.parse(token.revealed[:-1])


@pytest.mark.parametrize("change", ["said", "side", "end", "key", "none"])
def test_a_machine_cannot_join_without_the_token(change: str) -> None:
    """A mark is for one side and what it says, by the token of this cluster, until its end."""
    token = make_token(_KEY, 60, now=1000.0)
    said = {"node_id": _NODE, "address": "10.0.0.1:7000"}
    check_mark(token, "node", said, mark(token, "node", said))
    marks = {
        "said": mark(token, "node", {**said, "address": "10.0.0.2:7000"}),
        "side": mark(token, "cluster", said),
        "end": mark(token_of(_KEY, token.token_id, token.expires_at + 60), "node", said),
        "key": mark(token_of(b"x" * 32, token.token_id, token.expires_at), "node", said),
        "none": None,
    }
    with pytest.raises(AuthenticationError):
        check_mark(token, "node", said, marks[change])


def test_a_certificate_is_for_the_nodes_own_key_and_name() -> None:
    """Whatever name the request has. The authority certifies no other names, and signs no further authority."""
    authority = make_cluster_authority()
    _, request = make_request("node_ffffffffffffffff")
    certificate = x509.load_pem_x509_certificate(authority.certify_node(_NODE, request).encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name_of_node(_NODE)]
    assert certificate.public_key() == x509.load_pem_x509_csr(request.encode()).public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in usage] == [ExtendedKeyUsageOID.SERVER_AUTH.dotted_string]
    own = x509.load_pem_x509_certificate(authority.certificate)
    constraints = own.extensions.get_extension_for_class(x509.NameConstraints).value
    assert [one.value for one in constraints.permitted_subtrees or []] == ["cloister"]
    assert own.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_damaged_request_is_refused() -> None:
    """So is text that is no request."""
    authority = make_cluster_authority()
    _, request = make_request(_NODE)
    lines = request.splitlines()
    lines[2] = lines[2][::-1]
    for text in ("", "x", "\n".join(lines)):
        with pytest.raises(InvalidRequestError):
            ClusterAuthority(authority.certificate, authority.key).certify_node(_NODE, text)
