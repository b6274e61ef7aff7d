"""The documents by which other services verify the identity tokens of sandboxes. They need no key.

The contract is OpenID Connect Discovery 1.0 and RFC 7517.
"""

from __future__ import annotations

from aiohttp import web

from cloister.api.handlers import Api, json_answer

__all__ = ["CONFIGURATION_PATH", "KEYS_PATH", "configuration", "keys"]

CONFIGURATION_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/.well-known/jwks.json"
_HEADERS = {"Cache-Control": "public, max-age=300"}


async def configuration(api: Api, _request: web.Request) -> web.Response:
    """``GET /.well-known/openid-configuration``."""
    issuer = api.identity.issuer
    document = {
        "issuer": issuer,
        "jwks_uri": issuer + KEYS_PATH,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [api.identity.algorithm],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "team_id", "sandbox_id"],
    }
    return json_answer(document, headers=_HEADERS)


async def keys(api: Api, _request: web.Request) -> web.Response:
    """``GET /.well-known/jwks.json``."""
    return json_answer({"keys": await api.identity.public_keys()}, headers=_HEADERS)
