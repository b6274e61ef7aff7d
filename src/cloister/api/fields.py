"""Reads JSON bodies field by field, with errors that name the field. No I/O but log lines.

Clients send new fields before this server knows them. An unknown field is ignored and logged, unless its name suggests that it changes
isolation, access or cost: such a field is refused by name (decision 825).

Invariant: every text that is read has a bound in :data:`~cloister.api.bounds.BOUNDS`, is valid UTF-8 and has no NUL.
"""

from __future__ import annotations

import re
from typing import Any

import structlog

from cloister.api.bounds import BOUNDS, Bound
from cloister.errors import InvalidRequestError
from cloister.model.text import size_of_text

__all__ = ["Fields", "is_grave", "shown"]

_log = structlog.get_logger("cloister.api")
_MISSING = object()
_NUMBER = re.compile(r"\[\d+\]")
_SHOWN = 200
"""Characters of a client's text in an error."""
_KIND_NAMES = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}


_GRAVE = re.compile(
    r"""access | acl\Z | airgap | allow | apparmor | archiv | audit | auth | bandwidth | bill | blacklist | block | budget |
    cap | cidr | concurren | confidential | connect | core | cost | count | cpu | credential | deadline | dedicated |
    delet | deny | destroy | device | disk | dns | domain | duration | egress | encrypt | ephemeral | exclusive |
    expir | expos | filter | firewall | gateway | gpu | header | hibernat | host | iam | identit | idle | inbound |
    ingress | instance | internet | ip | isolat | keep | kernel | key | kill | lease | lifecycle | lifetime | limit |
    lock | login | mask | mem | mount | nat\Z | net | offline | only | outbound | pass | pause | permi | persist |
    polic | port | pric | priv | proxy | public | quota | ram\Z | rate | region | replica | reserv | resource |
    restrict | resume | retain | reten | role | root | rule | runtime | safe | scale | seccomp | secret | secur |
    share | shutdown | sign | size | sleep | snapshot | spot | ssh | stop | storage | subnet | sudo | suspend | swap |
    sysctl | tenan | terminat | throttl | tier | timeout | tls | token | traffic | trust | ttl | tunnel | ulimit |
    unsafe | untrust | user | vcpu | visib | volume | vpc | vpn | whitelist""",
    re.VERBOSE,
)
"""Word stems in names of fields about isolation, access or cost. One too many refuses a harmless field; one too few breaks a promise."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_REFUSED = "its name says that it may change isolation, access or cost, so this server does not pass over it"
_REFUSED_HERE = "this server passes over no unknown field of this object"
_EMPTY: tuple[object, ...] = (None, "", [], {})


def is_grave(name: str) -> bool:
    """Whether an unknown field may change isolation, access or cost, by the words of its name."""
    return any(_GRAVE.match(word.lower()) for word in _WORD.findall(name))


class Fields:
    """A JSON object's fields, taken one by one; fields that are left at the end are unknown.

    ``is_strict``: the whole object is about isolation, access or cost, so no unknown field is ignored.
    """

    def __init__(self, body: object, where: str = "", *, is_strict: bool = False) -> None:
        if not isinstance(body, dict):
            raise InvalidRequestError(f"{where.rstrip('.') or 'the body'} must be a JSON object")
        self._left = dict(body)
        self._where = where
        self._is_strict = is_strict

    def take(self, name: str, kind: type, default: Any = _MISSING) -> Any:
        """The field's value; null counts as absent."""
        value = self._left.pop(name, None)
        if value is None:
            if default is _MISSING:
                raise InvalidRequestError(f"{self._where}{name} is missing")
            return default
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidRequestError(f"{self._where}{name} must be {_KIND_NAMES[kind]}")
        if isinstance(value, str):
            self._check_size(name, size_of_text(value, self._where + name), self._bound(name).size)
        return value

    def take_any(self, name: str) -> Any:
        """The field's value, whatever it is; None if it is absent. The caller checks its kind and its size."""
        return self._left.pop(name, None)

    def take_list(self, name: str) -> tuple[str, ...]:
        """The list of strings; empty if the field is absent."""
        return self.take_optional_list(name) or ()

    def take_optional_list(self, name: str) -> tuple[str, ...] | None:
        """The list of strings; None if the field is absent."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        values, bound = self.take_items(name), self._bound(name)
        if not all(isinstance(value, str) for value in values):
            raise InvalidRequestError(f"{self._where}{name} must be a list of strings")
        for number, value in enumerate(values, 1):
            self._check_size(f"{name}[{number}]", size_of_text(value, f"{self._where}{name}[{number}]"), bound.size)
        return tuple(values)

    def take_items(self, name: str) -> list[Any]:
        """The list, of any values; empty if the field is absent."""
        values: list[Any] = self.take(name, list, [])
        self._check_entries(name, len(values))
        return values

    def take_texts(self, name: str) -> dict[str, str]:
        """The object with strings as values; empty if the field is absent."""
        values = self.take(name, dict, {})
        self._check_entries(name, len(values))
        size = 0
        for key, value in values.items():
            where = f"{self._where}{name}.{shown(key)}"
            if not isinstance(value, str):
                raise InvalidRequestError(f"{where} must be a string")
            size += size_of_text(key, where) + size_of_text(value, where)
        self._check_size(name, size, self._bound(name).size)
        return dict(values)

    def _bound(self, name: str) -> Bound:
        return BOUNDS[_NUMBER.sub("[]", self._where) + name]

    def _check_size(self, name: str, size: int, most: int) -> None:
        if size > most:
            raise InvalidRequestError(f"{self._where}{name} has {size} bytes; it may have at most {most}")

    def _check_entries(self, name: str, count: int) -> None:
        if count > self._bound(name).entries:
            raise InvalidRequestError(f"{self._where}{name} has {count} entries; it may have at most {self._bound(name).entries}")

    def refuse(self, name: str, *neutral: object) -> None:
        """Refuse the field unless it is absent, null or has a neutral value."""
        value = self._left.pop(name, None)
        if value is not None and not any(type(value) is type(harmless) and value == harmless for harmless in neutral):
            raise InvalidRequestError(f"{self._where}{name} is not supported by this server")

    def end(self) -> None:
        """Ignore the fields that are left, and log their names.

        Raises:
            InvalidRequestError: one of them may change isolation, access or cost, and is not empty.
        """
        left = [name for name in sorted(self._left) if self._left[name] not in _EMPTY]
        grave = [name for name in left if self._is_strict or is_grave(name)]
        if grave:
            names = shown(", ".join(self._where + name for name in grave))
            raise InvalidRequestError(f"unknown field: {names}", hint=_REFUSED_HERE if self._is_strict else _REFUSED)
        if left:
            _log.info("request.fields_passed_over", fields=shown(", ".join(self._where + name for name in left)))


def shown(text: str) -> str:
    """A client's text in an error: short, and of characters that can be sent."""
    return text[:_SHOWN].encode("ascii", "backslashreplace").decode()
