"""nftables by libnftables, in process: 0.3 ms for a change, where the ``nft`` command costs 3 ms.

Owns the ctypes binding and the parsing of sets and chains in JSON; must not know the purpose of the rules.
Invariant: one :class:`Nftables` belongs to one network namespace. The library opens its netlink socket when the context is created, and may
open it again later. So create *and use* a context only on a thread of that namespace (:class:`cloister.linux.netns.NetnsThread`).
Each :meth:`Nftables.run` is one kernel transaction: the kernel applies all of it or nothing.
Runs in: supervisor. Needs: CAP_NET_ADMIN in the network namespace, libnftables.
Source: libnftables(3), libnftables-json(5), nft(8); tried with 1.0.6 and newer.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from typing import Any

from cloister.errors import IsolationError, UnavailableError

__all__ = ["BaseChain", "Nftables"]

_OUTPUT_JSON = 1 << 4
_LIBRARY = "libnftables.so.1"


@dataclass(frozen=True)
class BaseChain:
    """A chain attached to a hook; ``policy`` is ``accept`` or ``drop``."""

    family: str
    table: str
    name: str
    hook: str
    policy: str


def _load() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise UnavailableError(f"{_LIBRARY} cannot be loaded: {error}", hint="apt-get install libnftables1") from error
    lib.nft_ctx_new.argtypes, lib.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
    lib.nft_ctx_free.argtypes, lib.nft_ctx_free.restype = [ctypes.c_void_p], None
    lib.nft_run_cmd_from_buffer.argtypes, lib.nft_run_cmd_from_buffer.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_int
    lib.nft_ctx_output_set_flags.argtypes, lib.nft_ctx_output_set_flags.restype = [ctypes.c_void_p, ctypes.c_uint], None
    for which in ("output", "error"):
        start, read = getattr(lib, f"nft_ctx_buffer_{which}"), getattr(lib, f"nft_ctx_get_{which}_buffer")
        start.argtypes, start.restype = [ctypes.c_void_p], ctypes.c_int
        read.argtypes, read.restype = [ctypes.c_void_p], ctypes.c_char_p
    return lib


class Nftables:
    """A libnftables context. Not thread-safe: see the module's invariant."""

    def __init__(self) -> None:
        self._lib = _load()
        self._ctx = self._lib.nft_ctx_new(0)
        if not self._ctx:
            raise UnavailableError("libnftables returned no context", hint="is the nf_tables kernel module loaded?")
        self._lib.nft_ctx_buffer_output(self._ctx)
        self._lib.nft_ctx_buffer_error(self._ctx)

    def close(self) -> None:
        """Free the context. Idempotent."""
        if self._ctx:
            self._lib.nft_ctx_free(self._ctx)
            self._ctx = None

    def run(self, commands: str) -> None:
        """Apply nft text as one transaction.

        Raises: IsolationError with the library's message, with nothing applied.
        """
        status, _, errors = self._run(commands, 0)
        if status != 0:
            raise IsolationError(f"nftables refused a change: {errors.strip()}", step="nftables")

    def _run(self, commands: str, flags: int) -> tuple[int, str, str]:
        self._lib.nft_ctx_output_set_flags(self._ctx, flags)
        status = int(self._lib.nft_run_cmd_from_buffer(self._ctx, commands.encode()))
        output = self._lib.nft_ctx_get_output_buffer(self._ctx) or b""
        errors = self._lib.nft_ctx_get_error_buffer(self._ctx) or b""
        return status, output.decode(errors="replace"), errors.decode(errors="replace")

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects of a ``list ...`` command, without the metainfo; empty if the named object does not exist."""
        status, output, errors = self._run(command, _OUTPUT_JSON)
        if status != 0:
            if "No such file or directory" in errors or "does not exist" in errors:
                return []
            raise IsolationError(f"nftables cannot list: {errors.strip()}", step="nftables")
        return [item for item in json.loads(output)["nftables"] if "metainfo" not in item]

    def tables(self) -> list[tuple[str, str]]:
        """All tables as (family, name)."""
        return [(item["table"]["family"], item["table"]["name"]) for item in self.query("list tables") if "table" in item]

    def elements(self, family: str, table: str, name: str) -> list[Any]:
        """The elements of a set, in the form of libnftables-json; a concatenation is a list. Empty if the set does not exist."""
        return [_value(element) for element in self._elements(family, table, name)]

    def _elements(self, family: str, table: str, name: str) -> list[Any]:
        return [element for item in self.query(f"list set {family} {table} {name}") for element in item.get("set", {}).get("elem", [])]

    def counters(self, family: str, table: str) -> dict[str, int]:
        """Packets counted by rules with a comment in a table, by comment. Rules with the same comment are added."""
        found: dict[str, int] = {}
        for item in self.query(f"list table {family} {table}"):
            rule = item.get("rule", {})
            packets = sum(part["counter"]["packets"] for part in rule.get("expr", []) if "counter" in part)
            if "comment" in rule:
                found[rule["comment"]] = found.get(rule["comment"], 0) + packets
        return found

    def base_chains(self) -> list[BaseChain]:
        """All chains attached to a hook, in every table of this namespace."""
        chains = [item["chain"] for item in self.query("list chains") if "chain" in item and "hook" in item["chain"]]
        return [BaseChain(c["family"], c["table"], c["name"], c["hook"], c.get("policy", "accept")) for c in chains]


def _value(element: Any) -> Any:
    """The value of an element; the parts of a concatenation as a list."""
    value = element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element
    return value["concat"] if isinstance(value, dict) and "concat" in value else value
