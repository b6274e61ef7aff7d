"""Data of a sandbox that the control plane needs and its node does not. Plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from cloister.model.bounds import Text, json_tree, text
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.secret import Secret, conceal, reveal

__all__ = ["MAX_CLIENT_DATA_BYTES", "ClientData"]

MAX_CLIENT_DATA_BYTES = 512 << 10
"""A client's metadata, its network options in two forms (128 KiB each), and the tokens of its sandbox."""
_MAX_METADATA_BYTES = 128 << 10
"""The API takes 64 KiB of text; each key and value costs something here besides."""


@dataclass(frozen=True, kw_only=True)
class ClientData:
    """A sandbox as its client asked for it.

    The node keeps this in its journal, unread, and returns it with the sandbox's record. So the control plane can restore a sandbox whose
    row it lost.
    """

    template_id: Text
    template: Text
    """The template's name, as clients see it."""
    metadata: Annotated[dict[str, str], json_tree(_MAX_METADATA_BYTES)] = field(default_factory=dict)
    traffic_token: Annotated[Secret, text()] | None = None
    """The token that clients must send to reach the sandbox's ports; None: the ports are public."""
    egress: EgressPolicy | None = None
    """The client's choice; None: the client did not choose."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    idempotency_key: Text | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, secrets included; :meth:`from_json` reads it back."""
        return {
            **vars(self),
            "traffic_token": reveal(self.traffic_token),
            "egress": None if self.egress is None else self.egress.to_json(),
            "network": self.network.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ClientData:
        """The inverse of :meth:`to_json`. Leaves out what a newer release added: nothing here restricts the sandbox."""
        known = {one.name for one in dataclasses.fields(cls)}
        fields = {name: value for name, value in data.items() if name in known}
        egress = fields.get("egress")
        return cls(
            **{
                **fields,
                "traffic_token": conceal(fields.get("traffic_token")),
                "egress": None if egress is None else EgressPolicy.from_json(egress),
                "network": NetworkOptions.from_json(fields.get("network", {})),
            }
        )
