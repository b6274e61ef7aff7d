"""One side of an intercepted HTTP/2 connection: h2's state, the stream of bytes below it, and our settings.

Windows bound what one side holds for the other: bytes are acknowledged when they have been passed on. Source: RFC 9113.
"""

from __future__ import annotations

import contextlib

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from cloister.egress.intercept.http2_frames import FrameSplitter, render_goaway
from cloister.egress.intercept.streams import Stream

__all__ = ["FEW_STREAMS", "MAX_STREAMS", "Side"]

MAX_STREAMS, FEW_STREAMS = 100, 16
_STREAM_WINDOW_BYTES = 256 << 10
_CONNECTION_WINDOW_BYTES = 4 << 20
_FIRST_WINDOW_BYTES = 65_535
_MAX_HEADERS_BYTES = 64 << 10
_HEADER_TABLE_BYTES = 4096
"""Of headers that we remember to send them again in short (RFC 7541 section 4.2). A peer may want more; we need not use it."""
_UPDATES_PER_DATA = 2
"""WINDOW_UPDATEs that a DATA frame may bring: for its stream and for the connection."""


class Side:
    """See the module. A guest's side acts as a server, an upstream's as a client."""

    def __init__(self, io: Stream, *, is_guest: bool) -> None:
        self.io = io
        self.is_guest = is_guest
        self.frames = FrameSplitter(has_preface=is_guest)
        self.connection = H2Connection(H2Configuration(client_side=not is_guest, header_encoding=False))
        self._raw = b""

    def begin(self, max_streams: int = MAX_STREAMS, *, is_wide: bool = True) -> None:
        """Say which settings hold. A guest may open ``max_streams`` streams at a time; an upstream may push none.

        Without ``is_wide`` all streams together hold no more than one may have in the protocol itself.
        """
        values = {
            SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS_BYTES,
        }
        if not self.is_guest:
            values[SettingCodes.ENABLE_PUSH] = 0
        self.connection.local_settings = Settings(client=not self.is_guest, initial_values=values)
        self.connection.initiate_connection()
        if is_wide:
            self.connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - _FIRST_WINDOW_BYTES)

    def receive(self, frame: bytes) -> list[Event]:
        """What one frame means. Raises: ProtocolError; the peer is told why by the next :meth:`flush`."""
        found = self.connection.receive_data(frame)
        if self.connection.encoder.table_size_changes:
            self._bound_table()
        return found

    def _bound_table(self) -> None:
        """Remember no more headers than we want to. h2 follows any wish of the peer, up to 4 GiB, and keeps all wishes to repeat them."""
        encoder = self.connection.encoder
        least = min(encoder.table_size_changes)
        if encoder.header_table_size > _HEADER_TABLE_BYTES:  # noqa: PLR1730 - hpack does not announce a size that is set twice
            encoder.header_table_size = _HEADER_TABLE_BYTES
        encoder.table_size_changes = [least, encoder.header_table_size]  # RFC 7541 section 4.2: the smallest and the last one

    def send_data(self, stream_id: int, data: bytes | memoryview, *, is_last: bool) -> None:
        """Send a part of a body, which must fit :meth:`room`."""
        self.connection.send_data(stream_id, data, end_stream=is_last)
        self.frames.allow(_UPDATES_PER_DATA)

    def room(self, stream_id: int) -> int:
        """Bytes that one DATA frame of the stream may have now."""
        return min(self.connection.local_flow_control_window(stream_id), self.connection.max_outbound_frame_size)

    def reset(self, stream_id: int, code: ErrorCodes | int) -> None:
        """Reset a stream, unless it has ended."""
        with contextlib.suppress(ProtocolError):
            self.connection.reset_stream(stream_id, code)

    def refuse_more(self, last_stream_id: int) -> None:
        """Let no new stream begin after this one; h2 would end the connection."""
        self._raw += self.connection.data_to_send() + render_goaway(last_stream_id, ErrorCodes.NO_ERROR)

    def end(self, code: ErrorCodes) -> None:
        """Tell the peer that the connection ends."""
        with contextlib.suppress(ProtocolError):
            self.connection.close_connection(code)

    async def flush(self) -> None:
        """Send what waits. Raises: OSError."""
        data = self._raw + self.connection.data_to_send()
        self._raw = b""
        if data:
            await self.io.write(data)
