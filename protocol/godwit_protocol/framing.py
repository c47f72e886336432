"""Framing of the direct link between two hosts: bytes in, frames out.

Every connection of the link begins with a hello of ``HELLO_BYTES``: which migration it belongs to,
whether it is the control connection or one of the N bulk connections, and the secret token that the
destination gave out. What follows depends on the purpose.

**Control**: messages, each behind its length and checksum (``encode_control``, ``ControlReader``).
What the messages mean is not known here.

**Bulk**: frames of a fixed header and a payload, from the source only (``BulkWriter`` makes the
headers, ``BulkReader`` judges them). The payload never passes through this module: the reader says
how much must come and where it belongs, so that the shell can receive it in place. A header names
its session, its connection and its place in the connection's sequence, so that a frame of another
migration and one that was lost or doubled are recognised; it is checked in full, against the sizes
of the regions too, before one byte of its payload is taken.

A round is the same number on all connections, counted from ``FIRST_ROUND``. Each connection closes
it with ROUND_END and the totals it sent, which must equal what came. An address always travels on
the same connection (``connection_of_page``), because only within a connection is there an order: so
an older copy of a page never lands on a newer one.

This module knows neither sockets nor memory nor clocks.
"""

from __future__ import annotations

import struct
import zlib
from enum import Enum, IntEnum
from typing import Final, TypeAlias

import msgspec

from .errors import LocalProtocolError, RemoteProtocolError
from .machine import PAGE_BYTES

Buffer: TypeAlias = bytes | bytearray | memoryview

CONTROL_PAYLOAD_BYTES_MAX: Final = 4 << 20
TOKEN_BYTES: Final = 32
SESSION_BYTES: Final = 8
CONNECTIONS_MAX: Final = 64
CHUNK_PAGES: Final = (2 << 20) // PAGE_BYTES
"""Pages in a chunk: consecutive addresses that share a connection. No frame crosses its border."""
SCATTER_PAGES_MAX: Final = (1 << 20) // PAGE_BYTES
PAGE_NUMBER_BYTES: Final = 8
FIRST_ROUND: Final = 1

_MAGIC: Final = b"GWLK"
_VERSION: Final = 1
# magic, version, kind, connection, session, sequence, round, region, first page, pages, payload
_FIELDS: Final = struct.Struct("<4sBBH8sQIIQII")
_CRC: Final = struct.Struct("<I")
_TOTALS: Final = struct.Struct("<QQQ")
_CONTROL: Final = struct.Struct("<II")

HEADER_BYTES: Final = _FIELDS.size + _CRC.size
HELLO_BYTES: Final = HEADER_BYTES + TOKEN_BYTES
TOTALS_BYTES: Final = _TOTALS.size


class FrameKind(IntEnum):
    """What a header announces."""

    HELLO_CONTROL = 1
    HELLO_BULK = 2
    RUN = 3
    """A run of pages; the payload is the pages."""
    SCATTER = 4
    """Pages from anywhere in a region; the payload is their numbers (u64), then the pages."""
    ZERO = 5
    """A run of pages that are all zero; no payload."""
    ROUND_END = 6
    """The round is over on this connection; the payload is its totals."""
    END = 7
    """Nothing more comes on this connection."""


class Frame(msgspec.Struct, frozen=True):
    """A header's content. ``region`` is an index into the machine's regions."""

    kind: FrameKind
    session: bytes
    connection: int
    sequence: int
    """Frames before this one on its connection, the hello included."""
    round_number: int = 0
    region: int = 0
    first_page: int = 0
    page_count: int = 0
    payload_bytes: int = 0


class Hello(msgspec.Struct, frozen=True):
    """How a connection introduces itself."""

    kind: FrameKind
    """HELLO_CONTROL or HELLO_BULK."""
    session: bytes
    token: bytes
    connection: int = 0
    """Index of a bulk connection."""
    connections: int = 0
    """How many bulk connections the source opens; 0 on the control connection."""


class Link(msgspec.Struct, frozen=True):
    """What both ends of the bulk connections agree on beforehand."""

    session: bytes
    connections: int
    region_pages: tuple[int, ...]
    """Size of each region in pages."""

    def checked(self) -> Link:
        """Return self. Raises ``LocalProtocolError`` if no link can be so."""
        if len(self.session) != SESSION_BYTES:
            raise LocalProtocolError(f"a session id has {SESSION_BYTES} bytes: {self.session!r}")
        if not 1 <= self.connections <= CONNECTIONS_MAX:
            raise LocalProtocolError(
                f"a link has 1 to {CONNECTIONS_MAX} bulk connections, not {self.connections}"
            )
        return self


class RoundTotals(msgspec.Struct, frozen=True):
    """What one connection, or all of them together, carried in one round."""

    pages: int = 0
    payload_bytes: int = 0
    frames: int = 0
    """RUN, SCATTER and ZERO frames."""

    def plus(self, pages: int, payload_bytes: int, frames: int = 1) -> RoundTotals:
        """These totals with one more frame, or with those of another connection."""
        return RoundTotals(
            self.pages + pages, self.payload_bytes + payload_bytes, self.frames + frames
        )


class HeaderNeeded(msgspec.Struct, frozen=True):
    """The reader waits for the next ``byte_count`` bytes: a header."""

    byte_count: int = HEADER_BYTES


class PayloadNeeded(msgspec.Struct, frozen=True):
    """The reader waits for the payload of ``frame``, which was judged and found good."""

    frame: Frame


def connection_of_page(page: int, connections: int) -> int:
    """Index of the bulk connection on which a page (of any region) travels."""
    return page // CHUNK_PAGES % connections


def encode_hello(hello: Hello) -> bytes:
    """The ``HELLO_BYTES`` that open a connection."""
    if len(hello.token) != TOKEN_BYTES:
        raise LocalProtocolError(f"a token has {TOKEN_BYTES} bytes, not {len(hello.token)}")
    frame = Frame(
        hello.kind,
        hello.session,
        hello.connection,
        sequence=0,
        page_count=hello.connections,
        payload_bytes=TOKEN_BYTES,
    )
    return _encode_header(frame) + hello.token


def decode_hello(data: Buffer) -> Hello:
    """Read exactly ``HELLO_BYTES``. Raises ``RemoteProtocolError`` if they are no hello.

    Whether the token is right is for the caller to say.
    """
    if len(data) != HELLO_BYTES:
        raise RemoteProtocolError(f"a hello has {HELLO_BYTES} bytes, not {len(data)}")
    frame = _decode_header(data[:HEADER_BYTES])
    if frame.kind not in (FrameKind.HELLO_CONTROL, FrameKind.HELLO_BULK):
        raise RemoteProtocolError(f"a connection opened with {frame.kind.name}, not with a hello")
    if frame.sequence != 0 or frame.payload_bytes != TOKEN_BYTES:
        raise RemoteProtocolError("the hello's header is not that of a hello")
    token = bytes(data[HEADER_BYTES:])
    return Hello(frame.kind, frame.session, token, frame.connection, frame.page_count)


def _encode_header(frame: Frame) -> bytes:
    fields = _FIELDS.pack(
        _MAGIC,
        _VERSION,
        frame.kind,
        frame.connection,
        frame.session,
        frame.sequence,
        frame.round_number,
        frame.region,
        frame.first_page,
        frame.page_count,
        frame.payload_bytes,
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def _decode_header(data: Buffer) -> Frame:
    """Read a header of ``HEADER_BYTES``; its numbers are those sent, not yet those allowed."""
    if len(data) != HEADER_BYTES:
        raise RemoteProtocolError(f"a header has {HEADER_BYTES} bytes, not {len(data)}")
    magic, version, kind, connection, session, *numbers = _FIELDS.unpack_from(data)
    if magic != _MAGIC:
        raise RemoteProtocolError(f"a header begins with {_MAGIC!r}, not {magic!r}")
    (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    if crc != zlib.crc32(data[: _FIELDS.size]):
        raise RemoteProtocolError("a header's checksum is wrong")
    if version != _VERSION:
        raise RemoteProtocolError(
            f"the peer speaks version {version} of the link, this host {_VERSION}",
            hint="run the same release of Godwit on both hosts",
        )
    try:
        known_kind = FrameKind(kind)
    except ValueError:
        raise RemoteProtocolError(f"there is no frame of kind {kind}") from None
    return Frame(known_kind, session, connection, *numbers)


def _payload_bytes(kind: FrameKind, page_count: int) -> int:
    """How long the payload of a frame of this kind must be."""
    match kind:
        case FrameKind.RUN:
            return page_count * PAGE_BYTES
        case FrameKind.SCATTER:
            return page_count * (PAGE_NUMBER_BYTES + PAGE_BYTES)
        case FrameKind.ROUND_END:
            return TOTALS_BYTES
        case _:
            return 0


def _fault(link: Link, frame: Frame) -> str:
    """What is wrong with a frame's shape and place, or nothing. Both ends ask this."""
    if frame.payload_bytes != _payload_bytes(frame.kind, frame.page_count):
        return f"has a payload of {frame.payload_bytes} bytes for {frame.page_count} pages"
    if frame.kind in (FrameKind.ROUND_END, FrameKind.END):
        return "names pages" if frame.region or frame.first_page or frame.page_count else ""
    if frame.region >= len(link.region_pages):
        return f"names region {frame.region} of {len(link.region_pages)}"
    if frame.kind is FrameKind.SCATTER:
        fits = 1 <= frame.page_count <= SCATTER_PAGES_MAX and frame.first_page == 0
        return "" if fits else f"scatters {frame.page_count} pages from {frame.first_page}"
    return _run_fault(link, frame)


def _run_fault(link: Link, frame: Frame) -> str:
    if not 1 <= frame.page_count <= CHUNK_PAGES - frame.first_page % CHUNK_PAGES:
        return f"has {frame.page_count} pages from page {frame.first_page}, across a chunk's border"
    if frame.first_page + frame.page_count > link.region_pages[frame.region]:
        return (
            f"ends at page {frame.first_page + frame.page_count} of region {frame.region},"
            f" which has {link.region_pages[frame.region]}"
        )
    if connection_of_page(frame.first_page, link.connections) != frame.connection:
        return f"carries page {frame.first_page}, which travels on another connection"
    return ""


class BulkWriter:
    """Makes the headers of one bulk connection, in the order in which they will be sent.

    The caller sends each header and then the payload it announces. ``LocalProtocolError`` from any
    method means that no reader would take the frame; nothing was counted then.
    """

    def __init__(self, link: Link, connection: int) -> None:
        self._link = link.checked()
        self._connection = connection
        self._sequence = 1  # the hello was 0
        self._round = FIRST_ROUND
        self._totals = RoundTotals()
        self._ended = False

    @property
    def round_number(self) -> int:
        """The round to which the next frame belongs."""
        return self._round

    @property
    def totals(self) -> RoundTotals:
        """What this round has carried so far."""
        return self._totals

    def hello(self, token: bytes) -> bytes:
        """The bytes that open the connection."""
        return encode_hello(
            Hello(
                FrameKind.HELLO_BULK,
                self._link.session,
                token,
                self._connection,
                self._link.connections,
            )
        )

    def run(self, region: int, first_page: int, page_count: int) -> bytes:
        """Header of a run; its ``page_count`` pages follow."""
        return self._pages(FrameKind.RUN, region, first_page, page_count)

    def zero(self, region: int, first_page: int, page_count: int) -> bytes:
        """Header of a run of zero pages; nothing follows."""
        return self._pages(FrameKind.ZERO, region, first_page, page_count)

    def scatter(self, region: int, page_count: int) -> bytes:
        """Header of scattered pages; their numbers (u64, little-endian) and the pages follow.

        That the numbers lie in the region and belong to this connection is for the caller to see to.
        """
        return self._pages(FrameKind.SCATTER, region, 0, page_count)

    def round_end(self) -> bytes:
        """The whole frame that closes the round. The next frame belongs to the next round."""
        header = self._header(FrameKind.ROUND_END)
        totals = self._totals
        self._round += 1
        self._totals = RoundTotals()
        return header + _TOTALS.pack(totals.pages, totals.payload_bytes, totals.frames)

    def end(self) -> bytes:
        """The whole frame that closes the connection; between two rounds only."""
        if self._totals.frames:
            raise LocalProtocolError(f"END inside round {self._round}")
        header = self._header(FrameKind.END)
        self._ended = True
        return header

    def _pages(self, kind: FrameKind, region: int, first_page: int, page_count: int) -> bytes:
        header = self._header(kind, region, first_page, page_count)
        self._totals = self._totals.plus(page_count, _payload_bytes(kind, page_count))
        return header

    def _header(
        self, kind: FrameKind, region: int = 0, first_page: int = 0, page_count: int = 0
    ) -> bytes:
        frame = Frame(
            kind,
            self._link.session,
            self._connection,
            self._sequence,
            self._round,
            region,
            first_page,
            page_count,
            _payload_bytes(kind, page_count),
        )
        fault = "comes after END" if self._ended else _fault(self._link, frame)
        if fault:
            raise LocalProtocolError(f"a {kind.name} frame {fault}")
        self._sequence += 1
        return _encode_header(frame)


class _Phase(Enum):
    HEADER = "a header"
    PAYLOAD = "a payload"
    ENDED = "nothing: it has ended"
    BROKEN = "nothing: it was refused"


class BulkReader:
    """Judges what comes on one bulk connection after its hello.

    ``need`` says what must come next. A header goes to ``take_header``. After one with a payload,
    the shell takes the payload itself and says so with ``payload_taken``; that of ROUND_END goes to
    ``take_totals``. The page numbers of a SCATTER are part of its payload: before the shell writes
    the pages it must see that each lies in the region and travels on this connection.

    ``RemoteProtocolError`` from any method means that the connection is of no further use.
    """

    def __init__(self, link: Link, connection: int) -> None:
        self._link = link.checked()
        self._connection = connection
        self._sequence = 1
        self._round = FIRST_ROUND
        self._totals = RoundTotals()
        self._phase = _Phase.HEADER
        self._frame: Frame | None = None

    @property
    def round_number(self) -> int:
        """The round to which the next frame belongs."""
        return self._round

    @property
    def is_between_rounds(self) -> bool:
        """No page of the current round has come yet."""
        return self._phase is not _Phase.PAYLOAD and not self._totals.frames

    @property
    def need(self) -> HeaderNeeded | PayloadNeeded | None:
        """What must come next; None after END and after an error."""
        if self._phase is _Phase.PAYLOAD and self._frame is not None:
            return PayloadNeeded(self._frame)
        return HeaderNeeded() if self._phase is _Phase.HEADER else None

    def take_header(self, data: Buffer) -> Frame:
        """Judge ``HEADER_BYTES``. Raises ``RemoteProtocolError``."""
        self._expect(_Phase.HEADER)
        self._phase = _Phase.BROKEN
        frame = _decode_header(data)
        fault = self._order_fault(frame) or _fault(self._link, frame)
        if fault:
            raise RemoteProtocolError(
                f"a {frame.kind.name} frame {fault}"
                f" (connection {self._connection}, frame {self._sequence}, round {self._round})"
            )
        self._sequence += 1
        self._accept(frame)
        return frame

    def payload_taken(self) -> None:
        """The payload of a RUN or SCATTER has come, whole."""
        self._expect(_Phase.PAYLOAD)
        self._phase = _Phase.HEADER

    def take_totals(self, payload: Buffer) -> RoundTotals:
        """Compare the payload of ROUND_END with what came, and close the round.

        Raises ``RemoteProtocolError`` if pages, bytes or frames were lost or doubled.
        """
        self._expect(_Phase.PAYLOAD)
        self._phase = _Phase.BROKEN
        if len(payload) != TOTALS_BYTES:
            raise RemoteProtocolError(f"totals have {TOTALS_BYTES} bytes, not {len(payload)}")
        totals, came = RoundTotals(*_TOTALS.unpack(payload)), self._totals
        if totals != came:
            raise RemoteProtocolError(
                f"round {self._round} ended on connection {self._connection} with {totals}; {came}"
            )
        self._round += 1
        self._totals = RoundTotals()
        self._phase = _Phase.HEADER
        return totals

    def _expect(self, phase: _Phase) -> None:
        if self._phase is not phase:
            raise LocalProtocolError(
                f"the bulk reader was given {phase.value} and waits for {self._phase.value}"
            )

    def _order_fault(self, frame: Frame) -> str:
        """What is wrong with a frame's belonging and its place in the order, or nothing."""
        if frame.session != self._link.session:
            return f"belongs to another migration, session {frame.session.hex()}"
        if frame.connection != self._connection:
            return f"belongs to connection {frame.connection}"
        if frame.sequence != self._sequence:
            return f"is number {frame.sequence}: one was lost or doubled"
        if frame.kind in (FrameKind.HELLO_CONTROL, FrameKind.HELLO_BULK):
            return "is not the first of its connection"
        if frame.round_number != self._round:
            return f"belongs to round {frame.round_number}"
        if frame.kind is FrameKind.END and self._totals.frames:
            return "comes inside a round"
        return ""

    def _accept(self, frame: Frame) -> None:
        if frame.kind is FrameKind.END:
            self._phase = _Phase.ENDED
            return
        if frame.kind is not FrameKind.ROUND_END:
            self._totals = self._totals.plus(frame.page_count, frame.payload_bytes)
        self._frame = frame
        self._phase = _Phase.PAYLOAD if frame.payload_bytes else _Phase.HEADER


class BulkStream:
    """A ``BulkReader`` that is fed bytes as they come, in any pieces, and keeps payloads whole.

    For those who have no memory to receive into: tests and the simulator.
    """

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
            if isinstance(need, HeaderNeeded):
                if len(self._buffer) < need.byte_count:
                    break
                frame = self._reader.take_header(self._take(need.byte_count))
                if not frame.payload_bytes:
                    complete.append((frame, b""))
            elif len(self._buffer) < need.frame.payload_bytes:
                break
            else:
                complete.append((need.frame, self._take_payload(need.frame)))
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


def encode_control(payload: Buffer) -> bytes:
    """One control message: its length and checksum, then ``payload``.

    Raises ``LocalProtocolError`` above ``CONTROL_PAYLOAD_BYTES_MAX``.
    """
    if len(payload) > CONTROL_PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(
            f"a control message has {len(payload)} bytes, more than {CONTROL_PAYLOAD_BYTES_MAX}"
        )
    return _CONTROL.pack(len(payload), zlib.crc32(payload)) + bytes(payload)


class ControlReader:
    """Cuts the byte stream of a control connection, after its hello, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken = False

    def feed(self, data: Buffer) -> list[bytes]:
        """The payloads that ``data`` completes, in order; however the stream is cut.

        Raises ``RemoteProtocolError`` for an oversized message or a wrong checksum; the connection
        is of no further use then. The messages before the bad one are lost with it, as they are when
        a connection breaks.
        """
        if self._broken:
            raise LocalProtocolError("the control reader was fed after it had refused its stream")
        self._buffer += data
        messages: list[bytes] = []
        taken = 0
        while (message := self._message_at(taken)) is not None:
            messages.append(message)
            taken += _CONTROL.size + len(message)
        del self._buffer[:taken]
        return messages

    def _message_at(self, start: int) -> bytes | None:
        if len(self._buffer) < start + _CONTROL.size:
            return None
        length, crc = _CONTROL.unpack_from(self._buffer, start)
        if length > CONTROL_PAYLOAD_BYTES_MAX:
            raise self._refusal(f"announces {length} bytes, over {CONTROL_PAYLOAD_BYTES_MAX}")
        end = start + _CONTROL.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(memoryview(self._buffer)[start + _CONTROL.size : end])
        if zlib.crc32(message) != crc:
            raise self._refusal("has a wrong checksum")
        return message

    def _refusal(self, fault: str) -> RemoteProtocolError:
        self._broken = True
        return RemoteProtocolError(f"a control message {fault}")
