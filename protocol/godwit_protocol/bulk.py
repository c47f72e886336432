"""What may come on a bulk connection, and when: the writer's and the reader's side of its frames.

``BulkWriter`` makes the headers of one connection. ``BulkReader`` judges them at the other end. The
payload passes through neither: the reader says how much must come and where it belongs, so that the
shell can receive it in place. A header is judged in full before one byte of its payload is taken:
its session, connection and place in the sequence (so that a frame of another migration and one that
was lost or doubled are recognised), its round, and its bounds in the region.

A round has the same number on all connections, counted from ``FIRST_ROUND``. Each connection closes
it with ROUND_END and the totals that it sent, which must equal what came. Where the link is
digested, the totals have the digest of each frame, header and payload, added up: the sum of what
was sent must be that of what was applied.

    hello  { [ SPREAD ] { RUN | SCATTER | ZERO | ZERO_SCATTER | OFFER }  ROUND_END }  END

A RUN or SCATTER may come compressed, by a method that was agreed on before (``PACKED``). What it
comes to is known from its header all the same, and is more than its payload. Its digest is of its
pages as they are applied.

Only an OFFER, which the first round may have, is answered: a byte a chunk, 1 if the reader's memory
has the chunk now. Such a chunk counts as carried on both sides; the writer sends the others.

An address always travels on the same connection (``connection_of_page``), because only within a
connection is there an order: so an older copy of a page never lands on a newer one. A SPREAD
changes over how many of the connections addresses are spread, from its round on. Then an address
may come on another connection than before: so the round before must be applied, on all of them.

This module knows neither sockets nor memory nor clocks.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from .bulk_frames import (
    CHUNK_DIGEST_BYTES,
    CHUNK_PAGES,
    CONNECTIONS_MAX,
    DIGEST_BYTES,
    FIRST_ROUND,
    OFFERED_CHUNKS_MAX,
    PACKED,
    PAGE_NUMBER_BYTES,
    ROUNDS_MAX,
    SCATTER_PAGES_MAX,
    TOTALS,
    TOTALS_BYTES,
    BulkLink,
    connection_of_page,
    frame_fault,
    payload_bytes,
)
from .compression import Compression
from .errors import CorruptError, LocalProtocolError, RemoteProtocolError
from .framing import (
    HEADER_BYTES,
    PREAMBLE_KINDS,
    Buffer,
    Frame,
    FrameKind,
    Preamble,
    decode_header,
    encode_header,
    encode_preamble,
)

__all__ = (
    "CHUNK_DIGEST_BYTES",
    "CHUNK_PAGES",
    "CONNECTIONS_MAX",
    "DIGEST_BYTES",
    "FIRST_ROUND",
    "OFFERED_CHUNKS_MAX",
    "PACKED",
    "PAGE_NUMBER_BYTES",
    "ROUNDS_MAX",
    "SCATTER_PAGES_MAX",
    "TOTALS_BYTES",
    "BulkLink",
    "BulkReader",
    "BulkWriter",
    "HeaderNeeded",
    "PayloadNeeded",
    "RoundTotals",
    "connection_of_page",
    "packed_digest",
    "payload_bytes",
)

_DIGESTS: Final = 1 << 8 * DIGEST_BYTES

_PACKED_AS: Final = {plain_and_method: kind for kind, plain_and_method in PACKED.items()}


class RoundTotals(msgspec.Struct, frozen=True):
    """What one connection, or all of them together, carried in one round."""

    pages: int = 0
    payload_bytes: int = 0
    """Pages, as they travel, and the numbers of scattered pages; without headers."""
    frames: int = 0
    """Frames that name pages."""
    digest: int = 0
    """Sum of the frames' digests, modulo 2**128; 0 where they are not digested."""

    def plus(self, other: RoundTotals) -> RoundTotals:
        """The sum."""
        return RoundTotals(
            self.pages + other.pages,
            self.payload_bytes + other.payload_bytes,
            self.frames + other.frames,
            (self.digest + other.digest) % _DIGESTS,
        )


class HeaderNeeded(msgspec.Struct, frozen=True):
    """The reader waits for the next ``byte_count`` bytes: a header."""

    byte_count: int = HEADER_BYTES


class PayloadNeeded(msgspec.Struct, frozen=True):
    """The reader waits for the payload of ``frame``, which was judged and found good."""

    frame: Frame


def packed_digest(digest: int) -> bytes:
    """A sum of digests as the link carries it: ``DIGEST_BYTES``."""
    return digest.to_bytes(DIGEST_BYTES, "little")


def _totals_of(frame: Frame) -> RoundTotals:
    """What a frame that names pages carries: an offer carries none until it is answered."""
    carried = 0 if frame.kind is FrameKind.OFFER else frame.page_count
    return RoundTotals(carried, frame.payload_bytes, frames=1)


class BulkWriter:
    """Makes the headers of one bulk connection, in the order in which they will be sent.

    The caller sends each header and then the payload that it announces. ``LocalProtocolError`` from
    any method means that no reader would take the frame; nothing was counted then.
    """

    def __init__(self, link: BulkLink, connection: int) -> None:
        self._link = link.checked()
        self._connection = connection
        self._sequence = 1  # the preamble was 0
        self._round = FIRST_ROUND
        self._totals = RoundTotals()
        self._ended = False
        self.spread = link.connections
        """Over how many connections the pages go, from the first."""

    @property
    def round_number(self) -> int:
        """The round to which the next frame belongs."""
        return self._round

    @property
    def totals(self) -> RoundTotals:
        """What this round has carried so far."""
        return self._totals

    def preamble(self, token: bytes) -> bytes:
        """The bytes that open the connection. Raises ``LocalProtocolError`` for a bad token."""
        return encode_preamble(
            Preamble(
                FrameKind.BULK_HELLO,
                self._link.session,
                token,
                self._connection,
                self._link.connections,
            )
        )

    def spread_over(self, connections: int) -> bytes:
        """The whole frame by which pages go over so many connections from this round on. It is the
        round's first on each connection, and the round before is applied.
        """
        length = payload_bytes(FrameKind.SPREAD, connections)
        frame = self._checked(FrameKind.SPREAD, 0, 0, connections, length)
        self.spread = connections
        return encode_header(frame)

    def run(self, region: int, first_page: int, page_count: int) -> bytes:
        """Header of a run; its ``page_count`` pages follow."""
        return self._pages(FrameKind.RUN, region, first_page, page_count)

    def packed_run(
        self, region: int, first_page: int, page_count: int, method: Compression, packed_bytes: int
    ) -> bytes:
        """Header of a run; its pages follow, compressed to ``packed_bytes``, which is less."""
        kind = _PACKED_AS[FrameKind.RUN, method]
        return self._pages(kind, region, first_page, page_count, packed_bytes)

    def zero(self, region: int, first_page: int, page_count: int) -> bytes:
        """Header of a run of zero pages; nothing follows."""
        return self._pages(FrameKind.ZERO, region, first_page, page_count)

    def scatter(self, region: int, page_count: int) -> bytes:
        """Header of scattered pages; their numbers (u64, little-endian) and the pages follow.

        That the numbers lie in the region and on this connection is for the caller to see to.
        """
        return self._pages(FrameKind.SCATTER, region, 0, page_count)

    def packed_scatter(
        self, region: int, page_count: int, method: Compression, packed_bytes: int
    ) -> bytes:
        """As ``scatter``; the pages follow compressed to ``packed_bytes``, which is less."""
        kind = _PACKED_AS[FrameKind.SCATTER, method]
        length = page_count * PAGE_NUMBER_BYTES + packed_bytes
        return self._pages(kind, region, 0, page_count, length)

    def zero_scatter(self, region: int, page_count: int) -> bytes:
        """Header of scattered zero pages; their numbers follow, as those of ``scatter``."""
        return self._pages(FrameKind.ZERO_SCATTER, region, 0, page_count)

    def offer(self, region: int, chunk_count: int) -> bytes:
        """Header of an offer; the chunks' numbers (u64, little-endian) and digests follow, and the
        answer is to be awaited. That they lie on this connection is for the caller to see to.
        """
        return self._pages(FrameKind.OFFER, region, 0, chunk_count * CHUNK_PAGES)

    def filled(self, chunk_count: int) -> None:
        """So many chunks of the last offer are there, by its answer."""
        self._totals = self._totals.plus(RoundTotals(chunk_count * CHUNK_PAGES))

    def digested(self, digest: int) -> None:
        """The last frame's digest is this."""
        self._totals = self._totals.plus(RoundTotals(digest=digest))

    def round_end(self) -> bytes:
        """The whole frame that closes the round. The next frame belongs to the next round."""
        header = self._header(FrameKind.ROUND_END)
        totals = self._totals
        self._round += 1
        self._totals = RoundTotals()
        digest = packed_digest(totals.digest)
        return header + TOTALS.pack(totals.pages, totals.payload_bytes, totals.frames, digest)

    def end(self) -> bytes:
        """The whole frame that closes the connection; between two rounds only."""
        if self._totals.frames:
            raise LocalProtocolError(f"END inside round {self._round}")
        header = self._header(FrameKind.END)
        self._ended = True
        return header

    def _pages(
        self,
        kind: FrameKind,
        region: int,
        first_page: int,
        page_count: int,
        packed_bytes: int | None = None,
    ) -> bytes:
        length = payload_bytes(kind, page_count) if packed_bytes is None else packed_bytes
        frame = self._checked(kind, region, first_page, page_count, length)
        self._totals = self._totals.plus(_totals_of(frame))
        return encode_header(frame)

    def _header(self, kind: FrameKind) -> bytes:
        return encode_header(self._checked(kind, 0, 0, 0, payload_bytes(kind, 0)))

    def _checked(
        self, kind: FrameKind, region: int, first_page: int, page_count: int, length: int
    ) -> Frame:
        """The next frame of the connection, counted. Raises ``LocalProtocolError``."""
        frame = Frame(
            kind,
            self._link.session,
            self._connection,
            self._sequence,
            self._round,
            region,
            first_page,
            page_count,
            length,
        )
        fault = "comes after END" if self._ended else frame_fault(self._link, frame, self.spread)
        if fault:
            raise LocalProtocolError(f"a {kind.name} frame {fault}")
        self._sequence += 1
        return frame


class _Phase(Enum):
    HEADER = "a header"
    PAYLOAD = "a payload"
    TOTALS = "totals"
    ENDED = "nothing: the connection has ended"
    REFUSED = "nothing: a frame was refused"


class BulkReader:
    """Judges what comes on one bulk connection after its preamble.

    ``need`` says what must come next. A header goes to ``take_header``. After one with a payload
    the shell takes the payload itself and says so with ``payload_taken``; that of ROUND_END goes to
    ``take_totals``. The page numbers of what is scattered are part of its payload: before the shell
    writes a page it must see that its number lies in the region and belongs to this connection.

    ``RemoteProtocolError`` or ``CorruptError`` means that the connection is of no further use;
    ``LocalProtocolError`` that the shell gave something other than ``need`` said.
    """

    def __init__(self, link: BulkLink, connection: int) -> None:
        self._link = link.checked()
        self._connection = connection
        self._sequence = 1  # the preamble was 0
        self._round = FIRST_ROUND
        self._totals = RoundTotals()
        self.spread = link.connections
        """Over how many connections the pages go, from the first."""
        self._phase = _Phase.HEADER
        self._frame: Frame | None = None

    @property
    def round_number(self) -> int:
        """The round to which the next frame belongs."""
        return self._round

    @property
    def need(self) -> HeaderNeeded | PayloadNeeded | None:
        """What must come next; None after END and after an error."""
        if self._phase is _Phase.HEADER:
            return HeaderNeeded()
        return PayloadNeeded(self._frame) if self._frame is not None else None

    @property
    def is_between_rounds(self) -> bool:
        """Whether nothing has come of the next round. It may be asked by another thread."""
        return not self._totals.frames and self._phase is not _Phase.TOTALS

    def take_header(self, data: Buffer) -> Frame:
        """Judge ``HEADER_BYTES`` and return what they announce. Raises ``RemoteProtocolError``."""
        self._expect(_Phase.HEADER)
        self._phase = _Phase.REFUSED
        frame = decode_header(data)
        fault = (
            self._order_fault(frame)
            or self._round_fault(frame)
            or frame_fault(self._link, frame, self.spread)
        )
        if fault:
            raise RemoteProtocolError(
                f"a {frame.kind.name} frame {fault}"
                f" (connection {self._connection}, frame {self._sequence}, round {self._round})"
            )
        self._sequence += 1
        self._accept(frame)
        return frame

    def payload_taken(self) -> None:
        """The payload of a frame that names pages has come, whole."""
        self._expect(_Phase.PAYLOAD)
        self._await_header()

    def filled(self, chunk_count: int) -> None:
        """So many chunks of the last offer are in memory; the answer says which."""
        self._totals = self._totals.plus(RoundTotals(chunk_count * CHUNK_PAGES))

    def digested(self, digest: int) -> None:
        """What was applied of the last frame that names pages has this digest."""
        self._totals = self._totals.plus(RoundTotals(digest=digest))

    def take_totals(self, payload: Buffer) -> RoundTotals:
        """Compare the payload of ROUND_END with what came, and close the round.

        Raises ``RemoteProtocolError`` if pages, bytes or frames differ, ``CorruptError`` if the
        digest of what was applied is not that of what was sent.
        """
        self._expect(_Phase.TOTALS)
        self._phase, self._frame = _Phase.REFUSED, None
        if len(payload) != TOTALS_BYTES:
            raise RemoteProtocolError(f"totals have {TOTALS_BYTES} bytes, not {len(payload)}")
        pages, byte_count, frames, digest = TOTALS.unpack(payload)
        sent = RoundTotals(pages, byte_count, frames, int.from_bytes(digest, "little"))
        came = self._totals
        place = f"round {self._round} on connection {self._connection}"
        if msgspec.structs.replace(sent, digest=came.digest) != came:
            raise RemoteProtocolError(f"{place}: sent {sent}, came {came}")
        if sent.digest != came.digest:
            raise CorruptError(
                f"{place}: the digest of what was applied is not that of what was sent",
                hint="the link, or a host's memory, alters bytes",
            )
        self._round += 1
        self._totals = RoundTotals()
        self._await_header()
        return came

    def _expect(self, phase: _Phase) -> None:
        if self._phase is not phase:
            raise LocalProtocolError(
                f"a bulk reader was given {phase.value} and waits for {self._phase.value}"
            )

    def _order_fault(self, frame: Frame) -> str:
        """What is wrong with a frame's belonging and its place in the sequence, or nothing."""
        if frame.session != self._link.session:
            return f"belongs to another migration, session {frame.session.hex()}"
        if frame.connection != self._connection:
            return f"belongs to connection {frame.connection}"
        if frame.sequence != self._sequence:
            return f"is number {frame.sequence}: one was lost or doubled"
        return ""

    def _round_fault(self, frame: Frame) -> str:
        """What makes a frame's kind and round illegal just now, or nothing."""
        if frame.kind in PREAMBLE_KINDS:
            return "is not the first of its connection"
        if frame.round_number != self._round:
            return f"belongs to round {frame.round_number}"
        if frame.kind in (FrameKind.END, FrameKind.SPREAD) and self._totals.frames:
            return "comes inside a round"
        return ""

    def _accept(self, frame: Frame) -> None:
        match frame.kind:
            case FrameKind.END:
                self._phase = _Phase.ENDED
            case FrameKind.ROUND_END:
                self._phase, self._frame = _Phase.TOTALS, frame
            case FrameKind.SPREAD:
                self.spread = frame.page_count
                self._await_header()
            case _:
                self._totals = self._totals.plus(_totals_of(frame))
                if frame.payload_bytes:
                    self._phase, self._frame = _Phase.PAYLOAD, frame
                else:
                    self._await_header()

    def _await_header(self) -> None:
        self._phase, self._frame = _Phase.HEADER, None
