"""Messages of the service ``process.Process``, which starts, lists, feeds and follows the processes of a sandbox.

Names, numbers and types are facts of the wire. Source: the generated descriptors in PyPI e2b 2.63.0, ``e2b/envd/process/process_pb.py``.
One field is ours, ``StartEvent.missed_bytes``: official clients skip unknown fields.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cloister.protocol.message import Kind, wire, wire_list, wire_map

__all__ = [
    "CloseStdinRequest",
    "ConnectRequest",
    "DataEvent",
    "Empty",
    "EndEvent",
    "EventResponse",
    "ListResponse",
    "ProcessConfig",
    "ProcessEvent",
    "ProcessInfo",
    "ProcessInput",
    "ProcessSelector",
    "SendInputRequest",
    "SendSignalRequest",
    "Signal",
    "StartEvent",
    "StartRequest",
    "StreamInputData",
    "StreamInputRequest",
    "StreamInputStart",
    "Terminal",
    "TerminalSize",
    "UpdateRequest",
]


class Signal(enum.IntEnum):
    """The signals that can be sent."""

    SIGNAL_UNSPECIFIED = 0
    SIGNAL_SIGTERM = 15
    SIGNAL_SIGKILL = 9


@dataclass(frozen=True, kw_only=True)
class Empty:
    """Every message without fields: ListRequest, KeepAlive, and empty answers."""


@dataclass(frozen=True, kw_only=True)
class TerminalSize:
    """``process.PTY.Size``."""

    cols: int = wire(1, Kind.UINT32)
    rows: int = wire(2, Kind.UINT32)


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """``process.PTY``."""

    size: TerminalSize | None = wire(1, TerminalSize)


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """The program to run. ``cwd`` None: the default directory."""

    cmd: str = wire(1, Kind.STRING)
    args: tuple[str, ...] = wire_list(2, Kind.STRING)
    envs: dict[str, str] = wire_map(3)
    cwd: str | None = wire(4, Kind.STRING, optional=True)


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """One running process."""

    config: ProcessConfig | None = wire(1, ProcessConfig)
    pid: int = wire(2, Kind.UINT32)
    tag: str | None = wire(3, Kind.STRING, optional=True)


@dataclass(frozen=True, kw_only=True)
class ListResponse:
    """All running processes."""

    processes: tuple[ProcessInfo, ...] = wire_list(1, ProcessInfo)


@dataclass(frozen=True, kw_only=True)
class ProcessSelector:
    """A process by exactly one of both."""

    pid: int | None = wire(1, Kind.UINT32, oneof="selector")
    tag: str | None = wire(2, Kind.STRING, oneof="selector")


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    """``stdin`` None means true, as old clients expect."""

    process: ProcessConfig | None = wire(1, ProcessConfig)
    pty: Terminal | None = wire(2, Terminal)
    tag: str | None = wire(3, Kind.STRING, optional=True)
    stdin: bool | None = wire(4, Kind.BOOL, optional=True)


@dataclass(frozen=True, kw_only=True)
class ConnectRequest:
    """Follow a process that runs or has recently ended."""

    process: ProcessSelector | None = wire(1, ProcessSelector)


@dataclass(frozen=True, kw_only=True)
class UpdateRequest:
    """Resize a terminal."""

    process: ProcessSelector | None = wire(1, ProcessSelector)
    pty: Terminal | None = wire(2, Terminal)


@dataclass(frozen=True, kw_only=True)
class StartEvent:
    """The first event. ``missed_bytes``: earlier output that was not kept."""

    pid: int = wire(1, Kind.UINT32)
    missed_bytes: int = wire(100, Kind.UINT64)


@dataclass(frozen=True, kw_only=True)
class DataEvent:
    """Output; one of the three."""

    stdout: bytes | None = wire(1, Kind.BYTES, oneof="output")
    stderr: bytes | None = wire(2, Kind.BYTES, oneof="output")
    pty: bytes | None = wire(3, Kind.BYTES, oneof="output")


@dataclass(frozen=True, kw_only=True)
class EndEvent:
    """The end of a process: ``exited`` with its own code, or (code -1) by a signal, which ``status`` and ``error`` name."""

    exit_code: int = wire(1, Kind.SINT32)
    exited: bool = wire(2, Kind.BOOL)
    status: str = wire(3, Kind.STRING)
    error: str | None = wire(4, Kind.STRING, optional=True)


@dataclass(frozen=True, kw_only=True)
class ProcessEvent:
    """One of the four."""

    start: StartEvent | None = wire(1, StartEvent, oneof="event")
    data: DataEvent | None = wire(2, DataEvent, oneof="event")
    end: EndEvent | None = wire(3, EndEvent, oneof="event")
    keepalive: Empty | None = wire(4, Empty, oneof="event")


@dataclass(frozen=True, kw_only=True)
class EventResponse:
    """``StartResponse`` and ``ConnectResponse``."""

    event: ProcessEvent | None = wire(1, ProcessEvent)


@dataclass(frozen=True, kw_only=True)
class ProcessInput:
    """Input, for the kind of process that it names."""

    stdin: bytes | None = wire(1, Kind.BYTES, oneof="input")
    pty: bytes | None = wire(2, Kind.BYTES, oneof="input")


@dataclass(frozen=True, kw_only=True)
class SendInputRequest:
    """Input in one piece."""

    process: ProcessSelector | None = wire(1, ProcessSelector)
    input: ProcessInput | None = wire(2, ProcessInput)


@dataclass(frozen=True, kw_only=True)
class StreamInputStart:
    """The process whose input the stream is."""

    process: ProcessSelector | None = wire(1, ProcessSelector)


@dataclass(frozen=True, kw_only=True)
class StreamInputData:
    """A piece of the input."""

    input: ProcessInput | None = wire(2, ProcessInput)


@dataclass(frozen=True, kw_only=True)
class StreamInputRequest:
    """One message of a stream of input: start first, then data and keepalives."""

    start: StreamInputStart | None = wire(1, StreamInputStart, oneof="event")
    data: StreamInputData | None = wire(2, StreamInputData, oneof="event")
    keepalive: Empty | None = wire(3, Empty, oneof="event")


@dataclass(frozen=True, kw_only=True)
class SendSignalRequest:
    """Signal a process and its descendants."""

    process: ProcessSelector | None = wire(1, ProcessSelector)
    signal: int = wire(2, Signal)


@dataclass(frozen=True, kw_only=True)
class CloseStdinRequest:
    """End of input."""

    process: ProcessSelector | None = wire(1, ProcessSelector)
