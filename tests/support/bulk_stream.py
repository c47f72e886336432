"""A reader of bulk frames that keeps payloads whole, for tests that have no memory to fill."""

from __future__ import annotations

from godwit_protocol.bulk import BulkReader, PayloadNeeded
from godwit_protocol.framing import Buffer, Frame, FrameKind


class BulkStream:
    """A ``BulkReader`` that is fed bytes as they come, in any pieces, and keeps payloads whole."""

    def __init__(self, reader: BulkReader) -> None:
        self._reader = reader
        self._buffer = bytearray()

    def feed(self, data: Buffer) -> list[tuple[Frame, bytes]]:
        """The frames that ``data`` completes, each with its payload.

        Raises ``RemoteProtocolError`` as the reader does.
        """
        self._buffer += data
        complete: list[tuple[Frame, bytes]] = []
        while need := self._reader.need:
            if isinstance(need, PayloadNeeded):
                if len(self._buffer) < need.frame.payload_bytes:
                    break
                complete.append((need.frame, self._take_payload(need.frame)))
            else:
                if len(self._buffer) < need.byte_count:
                    break
                frame = self._reader.take_header(self._take(need.byte_count))
                if not frame.payload_bytes:
                    complete.append((frame, b""))
        return complete

    def _take_payload(self, frame: Frame) -> bytes:
        payload = self._take(frame.payload_bytes)
        if frame.kind is FrameKind.ROUND_END:
            self._reader.take_totals(payload)
        else:
            self._reader.payload_taken()
        return payload

    def _take(self, byte_count: int) -> bytes:
        taken = bytes(self._buffer[:byte_count])
        del self._buffer[:byte_count]
        return taken
