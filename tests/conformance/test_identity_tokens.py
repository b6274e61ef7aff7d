"""Identity tokens: ``iam.tokens`` of a creation, the tokens that a rule is filled with, and the documents that verify them."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from e2b import Secret
from e2b_code_interpreter import Sandbox

from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.requests import ask, create
from framework.values import ask_values, secret_rule

pytestmark = pytest.mark.root
HOST = "api.example.com"
IAM = {"tokens": {"aws": {"audience": "sts.amazonaws.com", "tokenType": "JWT-SVID"}}}
TEXT = "Bearer ${e2b.identity.tokens.aws}"


def document(plane: ControlPlane, path: str) -> dict[str, Any]:
    """A published document, asked for without a key."""
    answer = call(plane.url, "GET", path)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def verified(plane: ControlPlane, token: str, audience: str) -> dict[str, Any]:
    """The claims, checked as a service does that knows the issuer alone: by discovery and the key set."""
    configuration = document(plane, "/.well-known/openid-configuration")
    key_path = configuration["jwks_uri"].removeprefix(configuration["issuer"])
    keys = jwt.PyJWKSet.from_dict(document(plane, key_path))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    algorithms = configuration["id_token_signing_alg_values_supported"]
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=configuration["issuer"])
    return claims


def bearer(plane: ControlPlane, sandbox_id: str) -> str:
    """A new token of the sandbox."""
    (text,) = ask_values(plane, sandbox_id, HOST, TEXT)
    return text.removeprefix("Bearer ")


def test_tokens_are_verified_by_the_published_keys(control_plane: ControlPlane) -> None:
    """A token names its sandbox and team, and its audience. It lives five minutes. Each request has another, after a restart too."""
    sandbox_id = create(control_plane, iam=IAM, network=secret_rule(TEXT))["sandboxID"]
    seen = set()
    for _ in range(2):
        for _ in range(2):
            token = bearer(control_plane, sandbox_id)
            claims = verified(control_plane, token, "sts.amazonaws.com")
            assert claims["sandbox_id"] == sandbox_id
            assert claims["sub"] == f"spiffe://127.0.0.1/team/{claims['team_id']}/sandbox/{sandbox_id}"
            assert claims["iss"] == control_plane.url
            assert claims["exp"] - claims["iat"] == 300
            assert abs(claims["iat"] - time.time()) < 60
            seen.add(claims["jti"])
            with pytest.raises(jwt.InvalidAudienceError):
                verified(control_plane, token, "other")
        control_plane.restart_api()
    assert len(seen) == 4
    assert "iam" not in ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").json()


def test_python_sdk(control_plane: ControlPlane) -> None:
    """``Secret.iam_token`` and a transform that is a function make the same rule. The token stays over an update and in a copy."""
    made = Sandbox.create(
        iam={"tokens": {"aws": Secret.iam_token(audience="sts.amazonaws.com", token_type="JWT-SVID")}},
        network={"rules": {HOST: [{"transform": lambda ctx: {"headers": {"Authorization": f"Bearer {ctx.iam.tokens['aws']}"}}}]}},
        **control_plane.sdk,
    )
    assert verified(control_plane, bearer(control_plane, made.sandbox_id), "sts.amazonaws.com")["sandbox_id"] == made.sandbox_id
    made.update_network({"rules": {HOST: [{"transform": lambda ctx: {"headers": {"X": f"Bearer {ctx.iam.tokens['aws']}"}}}]}})
    assert verified(control_plane, bearer(control_plane, made.sandbox_id), "sts.amazonaws.com")
    (copy,) = made.fork(timeout=60, api_headers={"X-Fork-Memory": "false"})
    assert isinstance(copy, Sandbox)
    assert verified(control_plane, bearer(control_plane, copy.sandbox_id), "sts.amazonaws.com")["sandbox_id"] == copy.sandbox_id


def test_names_that_are_not_registered_stay(control_plane: ControlPlane) -> None:
    """A placeholder of an unknown token is plain text. It gives no token of another sandbox."""
    sandbox_id = create(control_plane, network=secret_rule(TEXT))["sandboxID"]
    create(control_plane, iam=IAM, network=secret_rule(TEXT))
    assert ask_values(control_plane, sandbox_id, HOST, TEXT) == (TEXT,)


@pytest.mark.parametrize(
    ("iam", "words"),
    [
        ({"tokens": {"a": {"tokenType": "JWT-SVID"}}}, "iam.tokens.a.audience: audience is required"),
        ({"tokens": {"a": {"audience": "", "tokenType": "JWT-SVID"}}}, "iam.tokens.a.audience: audience is required"),
        ({"tokens": {"a": {"audience": "x"}}}, "iam.tokens.a.tokenType must be JWT-SVID"),
        ({"tokens": {"a": {"audience": "x", "tokenType": "X509-SVID"}}}, "iam.tokens.a.tokenType must be JWT-SVID"),
        ({"tokens": {"a": {"audience": "x", "tokenType": "JWT-SVID", "ttl": 1}}}, "unknown field: iam.tokens.a.ttl"),
        ({"tokens": {"": {"audience": "x", "tokenType": "JWT-SVID"}}}, "no possible name of a token"),
        ({"tokens": {"a}": {"audience": "x", "tokenType": "JWT-SVID"}}}, "no possible name of a token"),
        ({"tokens": {"a\n": {"audience": "x", "tokenType": "JWT-SVID"}}}, "no possible name of a token"),
        ({"tokens": {str(number): IAM["tokens"]["aws"] for number in range(6)}}, "has 6 tokens; it may have at most 5"),
        ({"roles": ["x"]}, "unknown field: iam.roles"),
    ],
)
def test_wrong_tokens(control_plane: ControlPlane, iam: dict[str, Any], words: str) -> None:
    """Each fault is 400 and named."""
    answer = ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base", "iam": iam})
    assert (answer.status, words in answer.json()["message"]) == (400, True), answer.body


def test_no_tokens_are_no_tokens(control_plane: ControlPlane) -> None:
    """An empty ``iam`` asks for nothing."""
    empty: tuple[Any, ...] = ({}, {"tokens": {}}, None, {"tokens": None})
    for iam in empty:
        create(control_plane, iam=iam)


def test_the_operator_names_the_issuer(tmp_path: Any) -> None:
    """The setting is in the tokens and in the documents."""
    with running_control_plane(tmp_path, identity_issuer="https://id.example.org/x") as plane:
        configuration = document(plane, "/.well-known/openid-configuration")
        assert (configuration["issuer"], configuration["jwks_uri"]) == (
            "https://id.example.org/x",
            "https://id.example.org/x/.well-known/jwks.json",
        )
        sandbox_id = create(plane, iam=IAM, network=secret_rule(TEXT))["sandboxID"]
        claims = verified(plane, bearer(plane, sandbox_id), "sts.amazonaws.com")
        assert claims["sub"].startswith("spiffe://id.example.org/team/")
