"""The table of the node protocol, and what is derived from it."""

from __future__ import annotations

import dataclasses
import inspect
import time

import pytest

from cloister.errors import InvalidRequestError
from cloister.node.builds.async_queue import AsyncBuildQueue
from cloister.node.handlers import NodeHandlers
from cloister.node.volumes import NodeVolumes
from cloister.nodewire.methods import EVENTS, METHODS, BuildMethods, VolumeMethods, calls_through, find_method
from framework import node_fuzz
from framework.fake_node import FakeNode


def test_the_node_and_its_fake_have_every_method_and_the_same_parameters() -> None:
    """Each method is called with the request by position, so only their number counts."""
    for name in METHODS:
        declared = inspect.signature(getattr(FakeNode, name)).parameters
        others = NodeVolumes if hasattr(VolumeMethods, name) else NodeHandlers
        real = getattr(AsyncBuildQueue if hasattr(BuildMethods, name) else others, name)
        assert len(inspect.signature(real).parameters) == len(declared), name


def test_only_a_creation_is_not_repeated_and_only_sockets_come_as_descriptors() -> None:
    """The client repeats every other call after a reconnection; a new method that may not be repeated is to be thought about."""
    assert [name for name, method in METHODS.items() if not method.terms.is_repeatable] == ["create"]
    assert {name: method.sockets for name, method in METHODS.items() if method.sockets} == {
        "dial": 1,
        "dns_sockets": 2,
        "dial_volume": 1,
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_fuzzer_knows_a_valid_request_of_each_method(name: str) -> None:
    """The requests that the fuzzer starts from are valid, and one more field makes them invalid."""
    params = node_fuzz.METHODS[name]
    METHODS[name].read_request(params)
    with pytest.raises(InvalidRequestError):
        METHODS[name].read_request({**params, "more": 1})
    wrong: object
    for wrong in (None, [], "", 1):
        with pytest.raises(InvalidRequestError):
            METHODS[name].read_request(wrong)


def test_the_fuzzer_knows_no_other_method() -> None:
    """A method that was removed is removed there too."""
    assert node_fuzz.METHODS.keys() == METHODS.keys()


def test_a_request_has_a_bound_of_its_own() -> None:
    """A build's definition may be 4 MiB long, though a message may be longer."""
    params = node_fuzz.METHODS["start_build"]
    METHODS["start_build"].read_request(params, 4 << 20)
    with pytest.raises(InvalidRequestError, match="longer than 4 MiB"):
        METHODS["start_build"].read_request(params, (4 << 20) + 1)


@pytest.mark.parametrize("body", [{}, {"method": None}, {"method": ["ping"]}, {"method": "Ping"}, {"method": "__init__"}])
def test_only_declared_methods_are_found(body: dict[str, object]) -> None:
    """An attribute of the node that is no method of the protocol cannot be called."""
    assert find_method(body) is None


async def test_a_client_makes_each_call_by_its_exchange() -> None:
    """The method's row and the request reach the exchange, whose result is the answer."""
    asked = []

    async def exchange(method: object, request: object) -> float:
        asked.append((method, request))
        return time.time()

    calls = calls_through(exchange)
    await calls.ping()
    (request,) = METHODS["kill"].read_request(node_fuzz.METHODS["kill"])
    await calls.kill(request)
    assert asked == [(METHODS["ping"], None), (METHODS["kill"], request)]


def test_events_are_entities_with_names_of_their_own() -> None:
    """The name tells the receiver which type the data has."""
    assert all(dataclasses.is_dataclass(kind) for kind in EVENTS)
    assert sorted(declared.name for declared in EVENTS.values()) == ["build.ended", "sandbox.ended", "sandbox.noted", "sandbox.paused"]
