"""Requests that no honest api process sends: valid ones with a few things changed, and bytes that are none. Standard library only."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from framework.fuzz import Mutator

__all__ = ["MARK", "METHODS", "NodeRequests"]

MARK = "cloister-fuzzed"
"""In every text that could become a file's name."""
_BUILD = "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e"
_SANDBOX = "fuzz0000000000000000"
METHODS: dict[str, dict[str, Any]] = {
    "reserve": {"template": "base", "team_id": "team_fuzz"},
    "create": {
        "sandbox_id": _SANDBOX,
        "template": "base",
        "end_at": 0,
        "team_id": "team_fuzz",
        "envs": {"A": "b"},
        "access_token": "t",
        "egress": {"public": False},
        "limits": {"cpu_count": 1, "mem_mib": 256, "disk_mib": 64, "inodes": 10_000},
        "client": {"template_id": "t", "template": "t", "metadata": {"a": "b"}, "egress": {"public": True}, "network": {}},
        "volumes": [{"volume_id": _BUILD, "name": "v", "path": "/v", "is_read_only": True}],
    },
    "creation_steps": {"sandbox_id": _SANDBOX},
    "kill": {"sandbox_id": _SANDBOX, "reason": "killed"},
    "set_deadline": {"sandbox_id": _SANDBOX, "end_at": 0},
    "set_network": {"sandbox_id": _SANDBOX, "egress": {"public": True}, "network": {}},
    "set_team_traffic": {"teams": [{"team_id": "team_a", "mbit_per_s": 1}]},
    "change_drain": {"is_on": False, "pause": False, "reason": "r"},
    "pause": {"sandbox_id": _SANDBOX, "memory": True},
    "resume": {"sandbox_id": _SANDBOX, "end_at": 0, "memory": False, "lifecycle": {"on_timeout": "pause", "wake_s": 300}},
    "list": {"after": None},
    "ended": {"sandbox_ids": [_SANDBOX]},
    "get": {"sandbox_id": _SANDBOX},
    "metrics": {"sandbox_id": _SANDBOX, "start": 0, "end": None, "newest": 3},
    "dial": {"sandbox_id": _SANDBOX},
    "templates": {},
    "absent_template": {"name": "base"},
    "dns_sockets": {},
    "note_look_ups": {"look_ups": [{"client": "10.200.0.5", "at": 0, "name": "a.example", "addresses": ["198.51.100.1"]}]},
    "ping": {},
    "start_build": {
        "build_id": _BUILD,
        "template_id": "tpl",
        "team_id": "team_fuzz",
        "name": "n",
        "image": None,
        "parent": "base",
        "steps": [
            {"kind": "RUN", "args": ["true", ""], "files": None, "force": False},
            {"kind": "COPY", "args": ["a", "/b", "", ""], "files": {"path": "team/hash", "digest": "0" * 64}, "force": True},
        ],
        "start_cmd": "",
        "ready_cmd": "",
        "cpu_count": 1,
        "mem_mib": 256,
        "disk_mib": 64,
        "force": False,
    },
    "report_build": {"build_id": _BUILD, "offset": 0, "limit": 10},
    "cancel_build": {"build_id": _BUILD},
    "drop_build": {"build_id": _BUILD},
    "make_volume": {"volume_id": _BUILD, "size_mib": 64, "inodes": 1000},
    "copy_volume": {"volume_id": _BUILD, "target_id": "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1f"},
    "delete_volume": {"volume_id": _BUILD},
    "volumes": {},
    "dial_volume": {"volume_id": _BUILD, "team_id": "team_fuzz"},
    "snapshot": {"sandbox_id": _SANDBOX, "build_id": _BUILD, "template_id": "tpl", "name": "n"},
}
"""A valid request of each method; times are put in by :class:`NodeRequests`."""
_OF_THE_API = [name for name in METHODS if name != "change_drain"]
"""An operator's command alone may call the others: with them the fuzzer, which is root, would stop its own creations."""
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 1e308, 0.5, 5e-324, float("inf"), float("-inf"), float("nan")),
    *("", "\0", "a\0b", "\ud800", "é" * 3000, "x" * 200_000, "../..", f"../../../../tmp/{MARK}", f"/tmp/{MARK}", f"/etc/{MARK}", "."),
    *([], {}, [[]], {"a": {}}, [None] * 5000, {str(number): "" for number in range(5000)}),
)
_TOP = ("id", "method", "params", "extra", "\0", "")


class NodeRequests:
    """Messages of one seed. ``now`` is the time of the server, epoch seconds."""

    def __init__(self, seed: str, now: float) -> None:
        self.chance = random.Random(seed)
        self._now = now
        self._mutator = Mutator(self.chance)

    def message(self, sandbox_ids: list[str]) -> list[bytes]:
        """The packets of one message, complete or not. ``sandbox_ids`` live."""
        chance = self.chance
        kind = chance.random()
        if kind < 0.1:
            return [self._mutator.bytes(b"." if chance.random() < 0.5 else b"") for _ in range(chance.randrange(1, 4))]
        body: Any = {"id": chance.randrange(1000), "method": chance.choice(_OF_THE_API), "params": {}}
        body["params"] = self._params(body["method"], sandbox_ids)
        for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
            self._change(body)
        if chance.random() < 0.1:
            body[chance.choice(_TOP)] = self._odd()
        data = json.dumps(body).encode()
        if chance.random() < 0.1:  # a key twice, an escape, a byte that is no UTF-8
            data = chance.choice(
                (b'{"id": 1, ' + data[1:], data.replace(b"a", b"\\u0061"), data.replace(b"e", b"\xff"), b"[" + data + b"]")
            )
        if kind < 0.25:
            data = self._mutator.bytes(data)
        return self._cut(data)

    def _odd(self) -> Any:
        """A value of its own, which may be changed further."""
        return copy.deepcopy(self.chance.choice(_ODD))

    def _params(self, method: str, sandbox_ids: list[str]) -> dict[str, Any]:
        params: dict[str, Any] = json.loads(json.dumps(METHODS[method]))
        if "end_at" in params:
            params["end_at"] = self._now + self.chance.choice((5, 60, 600, 10**6))
        if "sandbox_id" in params:
            fresh = "".join(self.chance.choices("abcdefghij0123456789", k=20))
            params["sandbox_id"] = fresh if method == "create" or not sandbox_ids else self.chance.choice(sandbox_ids)
        if "build_id" in params and self.chance.random() < 0.5:
            params["build_id"] = f"{self.chance.randrange(1 << 32):08x}-4f51-4b6f-8a4e-27ab02a05c1e"
        return params

    def _change(self, value: Any) -> None:
        """One thing somewhere below ``value``: another value, none, one more, or a long one."""
        chance = self.chance
        while isinstance(value, dict | list) and value:
            key = chance.choice([*value]) if isinstance(value, dict) else chance.randrange(len(value))
            inner = value[key]
            if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
                value = inner
                continue
            match chance.randrange(4):
                case 0:
                    del value[key]
                case 1 if isinstance(inner, str):
                    value[key] = self._mutator.text(inner)
                case 2 if isinstance(value, dict):
                    value[self._mutator.text("more")] = self._odd()
                case _:
                    value[key] = self._odd()
            return

    def _cut(self, data: bytes) -> list[bytes]:
        """Into packets as the protocol has them, or nearly."""
        size = self.chance.choice((180_000, 180_000, 180_000, 1000, 7))
        size = max(size, len(data) // 200 + 1)
        pieces = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
        packets = [b"+" + piece for piece in pieces[:-1]] + [b"." + pieces[-1]]
        return packets[: self.chance.randrange(len(packets) + 1)] if self.chance.random() < 0.05 else packets
