"""Events that the node reports, and their way to the api process.

:class:`SandboxEvents` and :class:`BuildEvents` are the interfaces that the parts of the node report to. :class:`EventBroadcaster`
implements both: it sends each event to every connected peer. Event loop only; no method waits for a peer.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from cloister.model.build import EndedBuild
from cloister.model.node import EndedSandbox, PausedSandbox, SandboxNote
from cloister.node.peers import Peer
from cloister.nodewire.methods import EVENTS, NodeEvent, message_of

__all__ = ["BuildEvents", "EventBroadcaster", "SandboxEvents"]


class SandboxEvents(Protocol):
    """What the node reports of sandboxes. Implementations return at once."""

    def sandbox_ended(self, ended: EndedSandbox) -> None:
        """Every process of a sandbox is dead."""
        ...

    def sandbox_paused(self, paused: PausedSandbox) -> None:
        """The node has paused a sandbox by itself, or keeps a paused one in another way."""
        ...

    def sandbox_noted(self, note: SandboxNote) -> None:
        """A sandbox met one of its limits, or the network refused it a connection."""
        ...


class BuildEvents(Protocol):
    """What the node reports of builds. Implementations return at once."""

    def build_ended(self, ended: EndedBuild) -> None:
        """A build of a template has ended."""
        ...


class EventBroadcaster:
    """Implements :class:`SandboxEvents` and :class:`BuildEvents` for the peers of the node protocol."""

    def __init__(self) -> None:
        self._peers: set[Peer] = set()
        self._unsent: dict[type, deque[NodeEvent]] = {kind: deque(maxlen=declared.most_kept) for kind, declared in EVENTS.items()}

    def add(self, peer: Peer) -> None:
        """Send events to ``peer`` from now on. Events that were kept for it come first."""
        for unsent in self._unsent.values():
            while unsent:
                peer.tell(message_of(unsent.popleft()))
        self._peers.add(peer)

    def remove(self, peer: Peer) -> None:
        """Send ``peer`` no more events."""
        self._peers.discard(peer)

    def sandbox_ended(self, ended: EndedSandbox) -> None:
        """Send ``sandbox.ended``. A peer that connects later asks for ends (``ended``)."""
        self._broadcast(ended)

    def sandbox_paused(self, paused: PausedSandbox) -> None:
        """Send ``sandbox.paused``. A peer that connects later lists the sandboxes."""
        self._broadcast(paused)

    def sandbox_noted(self, note: SandboxNote) -> None:
        """Send ``sandbox.noted``. Without a peer the note is kept for the next one, up to a bound."""
        self._broadcast(note)

    def build_ended(self, ended: EndedBuild) -> None:
        """Send ``build.ended``. A peer that connects later asks for reports."""
        self._broadcast(ended)

    def _broadcast(self, event: NodeEvent) -> None:
        if not self._peers:
            self._unsent[type(event)].append(event)
        for peer in tuple(self._peers):
            peer.tell(message_of(event))
