"""The user of the process that asks for values of headers, as the kernel names it."""

from __future__ import annotations

import os
import socket

import pytest

from cloister.node.instance import INSTANCES
from cloister.processes.api_values import _uid_of


@pytest.mark.root
@pytest.mark.parametrize("number", range(INSTANCES))
def test_the_uid_of_every_instance_is_read_as_it_is(number: int) -> None:
    """Those of instances from 4 on are above 2^31."""
    uid = 0x1000_0000 + number * (1 << 29) + 2
    os.seteuid(uid)
    try:
        one, other = socket.socketpair()
    finally:
        os.seteuid(0)
    with one, other:
        assert _uid_of(one) == uid
