"""Amazon's part in the pretend internet: it gives the password of a registry to who signs with its access key.

Source: the reference of ECR's GetAuthorizationToken, and "Signature Version 4" of the AWS general reference.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Any

from framework.registry import PASSWORD, USER

__all__ = ["API_NAME", "KEY_ID", "REGISTRY_NAME", "SECRET", "answer"]

_REGION = "us-east-1"
API_NAME = f"api.ecr.{_REGION}.amazonaws.com"
REGISTRY_NAME = f"123456789012.dkr.ecr.{_REGION}.amazonaws.com"
KEY_ID, SECRET = "AKIDEXAMPLE", "the secret of a key"
_TARGET = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_AUTHORIZATION = re.compile(
    rf"AWS4-HMAC-SHA256 Credential={KEY_ID}/(?P<date>\d{{8}})/{_REGION}/ecr/aws4_request, "
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    """A WSGI application: the token, or a refusal."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {"host": environ["HTTP_HOST"], "content-type": environ.get("CONTENT_TYPE", ""), "content-length": str(len(body))}
    headers |= {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    if headers.get("x-amz-target") != _TARGET or not _is_signed(headers, body):
        said: dict[str, Any] = {"__type": "UnrecognizedClientException", "message": "The security token is invalid."}
        status = "400 Bad Request"
    else:
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        entry = {"authorizationToken": token, "expiresAt": 4102444800.0, "proxyEndpoint": f"https://{REGISTRY_NAME}"}
        status, said = "200 OK", {"authorizationData": [entry]}
    start(status, [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps(said).encode()]


def _is_signed(headers: dict[str, str], body: bytes) -> bool:
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None:
        return False
    date = found["date"]
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in found["names"].split(";")]
    request = "\n".join(["POST", "/", "", *lines, "", found["names"], hashlib.sha256(body).hexdigest()])
    scope = f"{date}/{_REGION}/ecr/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(key.hex(), found["signature"])
