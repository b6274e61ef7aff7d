"""The texts of header rules with their placeholders replaced, for the egress process (:mod:`cloister.egresswire.values`).

Invariants: a text is filled only for a live sandbox whose own rules have exactly this text for the host of the request, and only with
secrets of the sandbox's team and tokens of the sandbox itself. A secret that does not exist is an error; a token's name that the creation
did not give stays as it is, as the published API has it. No text leaves this module but in its answer.
"""

from __future__ import annotations

from cloister.control.identity import Identity
from cloister.control.registry import Registry
from cloister.control.secrets import Secrets
from cloister.egresswire.values import AskValues
from cloister.errors import PermissionDeniedError, SandboxNotFoundError
from cloister.model.host_patterns import best_match
from cloister.model.placeholders import Placeholder, PlaceholderKind, parse_placeholders
from cloister.model.sandbox import Sandbox, SandboxState

__all__ = ["HeaderValues"]

_WITHOUT_REQUESTS = frozenset({SandboxState.PAUSED, SandboxState.ENDING, SandboxState.ENDED})


class HeaderValues:
    """Fills the texts of all sandboxes."""

    def __init__(self, registry: Registry, secrets: Secrets, identity: Identity) -> None:
        self._registry = registry
        self._secrets = secrets
        self._identity = identity

    async def fill(self, ask: AskValues) -> tuple[str, ...]:
        """The texts of a request, in their order.

        Raises:
            SandboxNotFoundError; PermissionDeniedError: the sandbox's rules do not have a text for this host; SecretNotFoundError;
            StoreError.
        """
        row = self._registry.live(ask.sandbox_id)
        if row is None or row.state in _WITHOUT_REQUESTS:
            raise SandboxNotFoundError("there is no such sandbox that runs")
        rules = {rule.host: rule.headers for rule in row.effective_egress.rules}
        host = best_match(rules, ask.host)
        allowed = frozenset() if host is None else frozenset(rules[host].values())
        if not allowed.issuperset(ask.texts):
            raise PermissionDeniedError("the sandbox has no such rule for this host")
        found: dict[Placeholder, str] = {}
        return tuple([await self._fill(row, text, found) for text in ask.texts])

    async def _fill(self, row: Sandbox, text: str, found: dict[Placeholder, str]) -> str:
        filled = ""
        for part in parse_placeholders(text):
            if isinstance(part, str):
                filled += part
                continue
            if part not in found:
                found[part] = await self._value(row, part)
            filled += found[part]
        return filled

    async def _value(self, row: Sandbox, part: Placeholder) -> str:
        if part.kind is PlaceholderKind.SECRET:
            return (await self._secrets.value(row.team_id, part.name)).revealed
        audience = row.network.tokens.get(part.name)
        return part.source if audience is None else (await self._identity.token(row, audience)).revealed
