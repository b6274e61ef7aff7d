"""Reading typed values: strictly what untrusted processes send, plainly what the supervisor sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.bounds import Quantity, Text, count, json_tree, variables, within
from cloister.nodewire.codec import count_sockets, dump_object, reader, sockets_of


class Colour(StrEnum):
    """Two colours."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A number whose bound depends on another field."""

    least: Quantity = 1
    value: Quantity

    def check(self, where: str) -> None:
        """Raises: InvalidRequestError."""
        if self.value < self.least:
            raise InvalidRequestError(f"{where} is too small")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A value of each kind."""

    text: Text
    inner: Inner | None = None
    items: Annotated[tuple[Inner, ...], count(0, 2)] = ()
    colour: Colour = Colour.RED
    switch: bool = False
    ratio: Annotated[float, within(0, 1)] = 0.5
    envs: Annotated[dict[str, str], variables] = field(default_factory=dict)
    kept: Annotated[dict[str, Any], json_tree(1000)] = field(default_factory=dict)


@dataclass(frozen=True)
class Sockets:
    """An answer with descriptors."""

    first: socket.socket
    name: str
    second: socket.socket


def read(value: Any, *, strict: bool = True, kind: Any = Outer) -> Any:
    """Read what came as JSON."""
    return reader(kind, strict=strict)(value, "it", iter(()))


def test_values_cross_as_json() -> None:
    """Both readers read a written object back as an equal one."""
    value = Outer(
        text="ü\n", inner=Inner(value=2), items=(Inner(value=1),) * 2, colour=Colour.BLUE, ratio=1, envs={"A": ""}, kept={"n": [None, 1.5]}
    )
    data = json.loads(json.dumps(value, default=dump_object))
    assert read(data) == read(data, strict=False) == value
    assert read({"text": ""}) == Outer(text="")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": None}, "it.text is not a text"),
        ({"text": "\0"}, "it.text must not have a NUL"),
        ({"text": "\ud800"}, "surrogate"),
        ({"more": 1}, "it: unknown field 'more'"),
        ({"m" * 100_000: 1}, "it: unknown field 'm{64}'$"),
        ({"inner": {}}, "it.inner.value is missing"),
        ({"inner": []}, "it.inner is not an object"),
        ({"inner": {"value": 1, "least": 2}}, "it.inner is too small"),
        ({"inner": {"value": True}}, "it.inner.value is not a whole number"),
        ({"inner": {"value": 1.0}}, "it.inner.value is not a whole number"),
        ({"inner": {"value": 10**400}}, "it.inner.value is not a positive number"),
        ({"items": [{"value": 1}] * 3}, "it.items is not a list of 0 to 2 items"),
        ({"items": {"value": 1}}, "it.items is not a list"),
        ({"items": [{"value": 1}, {"value": 0}]}, r"it.items\[1\].value is not a positive number"),
        ({"colour": "green"}, "it.colour is not one of red, blue"),
        ({"colour": ["red"]}, "it.colour is not one of"),
        ({"switch": 0}, "it.switch is not true or false"),
        ({"ratio": float("nan")}, "it.ratio is not from 0 to 1"),
        ({"ratio": "1"}, "it.ratio is not a number"),
        ({"envs": {"A": 1}}, "a value of it.envs is not a text"),
        ({"envs": {"A=B": ""}}, "has a '='"),
        ({"kept": {"a": [[[[1]]]]}}, "deeper than 4"),
        ({"kept": {"a": float("inf")}}, "does not fit"),
        ({"kept": {"a": "x" * 1000}}, "longer than 1000 bytes"),
        ({"kept": []}, "it.kept is not an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_strict_readers_refuse(change: dict[str, Any], said: str) -> None:
    """One wrong field is enough; the message names it and repeats little."""
    with pytest.raises(InvalidRequestError, match=said):
        read({"text": "", **change})


def test_plain_readers_check_no_bound() -> None:
    """The supervisor is trusted, and its journal may hold values of a version with other bounds."""
    assert read({"text": "\0", "inner": {"value": -1}, "of_tomorrow": 1}, strict=False) == Outer(text="\0", inner=Inner(value=-1))


@pytest.mark.parametrize("kind", [str, int, float, dict[str, str], dict[str, Any], tuple[Text, ...], Sequence[Text], str | None, Sockets])
def test_untrusted_values_without_a_bound_cannot_be_declared(kind: Any) -> None:
    """A request with such a field fails when the protocol is loaded, not when an attacker finds it."""
    with pytest.raises(TypeError):
        reader(kind, strict=True)


@pytest.mark.parametrize("kind", [object, bytes, set[str], Inner | Outer, dict[int, str]])
def test_only_json_is_sent(kind: Any) -> None:
    """Other types are refused when the protocol is loaded."""
    with pytest.raises(TypeError):
        reader(kind, strict=False)


def test_sockets_travel_beside_the_json() -> None:
    """They are taken out in the order of their fields and put in again in the same order."""
    assert (count_sockets(Sockets), count_sockets(socket.socket), count_sockets(str)) == (2, 1, 0)
    one, two = socket.socketpair()
    with one, two:
        value = Sockets(one, "n", two)
        assert sockets_of(value) == [one, two]
        assert sockets_of(one) == [one]
        data = json.loads(json.dumps(value, default=dump_object))
        assert data == {"first": None, "name": "n", "second": None}
        assert reader(Sockets, strict=False)(data, "it", iter((one, two))) == value
