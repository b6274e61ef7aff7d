"""Reads the ``rules`` of a network: headers that requests to a host get on their way out of a sandbox. Pure.

The contract is the published one. It is stricter in one point: headers that frame a request or name its host are refused, because they
decide where a request ends or goes, and so how an upstream server reads the next one (RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from typing import Any

from cloister.api.fields import Fields, shown
from cloister.errors import InvalidRequestError
from cloister.model.header_names import FRAMING_HEADERS, MAX_HEADER_NAME, is_header_name
from cloister.model.host_patterns import ANY_NAME, best_match, is_pattern
from cloister.model.network import HeaderRule
from cloister.model.placeholders import secrets_in
from cloister.model.text import size_of_text

__all__ = ["MAX_RULE_HOSTS", "parse_rules"]

MAX_RULE_HOSTS = 10
_MAX_HOST = 128
_MAX_HEADERS = 20
_MAX_HEADER_BYTES = 2048
_MAX_SECRETS = 32
"""Of the headers of one host together."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that no header may have: they could end it. Source: RFC 9110 section 5.5."""


def parse_rules(fields: Fields) -> tuple[tuple[HeaderRule, ...], dict[str, Any] | None]:
    """The rules, and the field as it was sent with its hosts in lower case; None if it is absent. Raises: InvalidRequestError."""
    body = fields.take("rules", dict, None)
    if body is None:
        return (), None
    if len(body) > MAX_RULE_HOSTS:
        raise InvalidRequestError(f"network.rules has {len(body)} hosts; it may have at most {MAX_RULE_HOSTS}")
    headers: dict[str, dict[str, str]] = {}
    sent: dict[str, Any] = {}
    for host, rules in body.items():
        key = _parse_host(host)
        if key in headers:
            raise InvalidRequestError(f"network.rules has the host {key} twice: the case of letters does not count")
        headers[key], sent[key] = _parse_host_rules(key, rules)
    full = [host for host, found in headers.items() if found]
    rules_kept = (host for host, found in headers.items() if found or best_match(full, host) is not None)  # an empty rule hides a wildcard
    return tuple(HeaderRule(host=host, headers=headers[host]) for host in rules_kept), sent


def _parse_host(text: str) -> str:
    if text == ANY_NAME or len(text) > _MAX_HOST or not is_pattern(text):
        hint = f"a host is a DNS name, or '*.' and one, of at most {_MAX_HOST} characters"
        raise InvalidRequestError(f"network.rules: invalid host {shown(text)}", hint=hint)
    return text.lower()


def _parse_host_rules(host: str, rules: object) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The headers for ``host``, and its rules as they were sent."""
    where = f"network.rules.{host}"
    if not isinstance(rules, list) or len(rules) > 1:
        raise InvalidRequestError(f"{where} must be a list of at most one rule")
    if not rules:
        return {}, []
    rule = Fields(rules[0], f"{where}.", is_strict=True)
    transform = rule.take("transform", dict, None)
    rule.end()
    if transform is None:
        return {}, [{}]
    change = Fields(transform, f"{where}.transform.", is_strict=True)
    headers = change.take("headers", dict, None)
    change.end()
    if headers is None:
        return {}, [{"transform": {}}]
    return _parse_headers(where, headers), [{"transform": {"headers": dict(headers)}}]


def _parse_headers(where: str, headers: dict[str, Any]) -> dict[str, str]:
    if len(headers) > _MAX_HEADERS:
        raise InvalidRequestError(f"{where} has {len(headers)} headers; it may have at most {_MAX_HEADERS}")
    if len({name.lower() for name in headers}) < len(headers):
        raise InvalidRequestError(f"{where} has a header twice: the case of letters does not count")
    secrets: set[str] = set()
    for name, value in headers.items():
        _check_header(f"{where}: header {shown(name)}", name, value)
        secrets |= secrets_in(value)
    if len(secrets) > _MAX_SECRETS:
        raise InvalidRequestError(f"{where} has {len(secrets)} secrets; it may have at most {_MAX_SECRETS}")
    return dict(headers)


def _check_header(where: str, name: str, value: object) -> None:
    if not is_header_name(name):
        raise InvalidRequestError(f"{where}: a name is a token of at most {MAX_HEADER_NAME} characters")
    if name.lower() in FRAMING_HEADERS:
        raise InvalidRequestError(f"{where}: a rule cannot set this header, which frames a request or names its host")
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where}: the value must be a string")
    if size_of_text(value, where) > _MAX_HEADER_BYTES:
        raise InvalidRequestError(f"{where}: the value may have at most {_MAX_HEADER_BYTES} bytes")
    if _CONTROL.search(value):
        raise InvalidRequestError(f"{where}: the value has control characters, such as the end of a line")
