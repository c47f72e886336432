"""What the frames of the bulk connections look like: their kinds, lengths and bounds. Pure.

Both ends ask ``frame_fault`` of each header: before it is sent, and before one byte of its payload
is taken. In which order frames come is the business of ``bulk``.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from .compression import Compression
from .errors import LocalProtocolError
from .framing import SESSION_BYTES, Frame, FrameKind
from .machine import PAGE_BYTES

CONNECTIONS_MAX: Final = 64
CHUNK_PAGES: Final = (2 << 20) // PAGE_BYTES
"""Pages in a chunk: neighbouring addresses that share a connection. No run crosses its border."""
SCATTER_PAGES_MAX: Final = (1 << 20) // PAGE_BYTES
PAGE_NUMBER_BYTES: Final = 8
CHUNK_DIGEST_BYTES: Final = 32
OFFERED_CHUNKS_MAX: Final = 16
"""In one frame: what filling them takes is a fraction of what a connection may stand still."""
FIRST_ROUND: Final = 1
ROUNDS_MAX: Final = 4096
"""Bounds what a reader's shell must remember; convergence ends far below it."""
DIGEST_BYTES: Final = 16
TOTALS: Final = struct.Struct(f"<QQQ{DIGEST_BYTES}s")
TOTALS_BYTES: Final = TOTALS.size

PACKED: Final = {
    FrameKind.RUN_LZ4: (FrameKind.RUN, Compression.LZ4),
    FrameKind.SCATTER_LZ4: (FrameKind.SCATTER, Compression.LZ4),
    FrameKind.RUN_ZSTD: (FrameKind.RUN, Compression.ZSTD),
    FrameKind.SCATTER_ZSTD: (FrameKind.SCATTER, Compression.ZSTD),
}
"""What each kind of compressed frame is otherwise, and the method."""


class BulkLink(msgspec.Struct, frozen=True):
    """What both ends of the bulk connections agree on beforehand."""

    session: bytes
    connections: int
    region_pages: tuple[int, ...]
    """Size of each region in pages."""
    digested: bool = False
    """Whether every frame is digested, on both sides."""
    compressions: tuple[Compression, ...] = ()
    """The methods by which pages may come compressed."""

    def checked(self) -> BulkLink:
        """Return self. Raises ``LocalProtocolError`` if no link can be so."""
        if len(self.session) != SESSION_BYTES:
            raise LocalProtocolError(f"a session id has {SESSION_BYTES} bytes: {self.session!r}")
        if not 1 <= self.connections <= CONNECTIONS_MAX:
            raise LocalProtocolError(
                f"a link has 1 to {CONNECTIONS_MAX} bulk connections, not {self.connections}"
            )
        return self


def connection_of_page(page: int, connections: int) -> int:
    """Index of the bulk connection on which a page, of whichever region, travels."""
    return page // CHUNK_PAGES % connections


def payload_bytes(kind: FrameKind, page_count: int) -> int:
    """How long the payload of a frame of this kind must be, which is not one of ``PACKED``."""
    match kind:
        case FrameKind.RUN:
            return page_count * PAGE_BYTES
        case FrameKind.SCATTER:
            return page_count * (PAGE_NUMBER_BYTES + PAGE_BYTES)
        case FrameKind.ZERO_SCATTER:
            return page_count * PAGE_NUMBER_BYTES
        case FrameKind.OFFER:
            return page_count // CHUNK_PAGES * (PAGE_NUMBER_BYTES + CHUNK_DIGEST_BYTES)
        case FrameKind.ROUND_END:
            return TOTALS_BYTES
        case _:
            return 0


def frame_fault(link: BulkLink, frame: Frame, spread: int) -> str:
    """What is wrong with a frame's shape and place, or nothing. ``spread``: over how many of the
    connections the pages go.
    """
    if frame.round_number > ROUNDS_MAX:
        return f"belongs to round {frame.round_number}, over {ROUNDS_MAX}"
    if frame.kind in PACKED:
        return _packed_fault(link, frame, spread)
    if frame.payload_bytes != payload_bytes(frame.kind, frame.page_count):
        return f"has a payload of {frame.payload_bytes} bytes for {frame.page_count} pages"
    return _place_fault(link, frame, spread)


def _packed_fault(link: BulkLink, frame: Frame, spread: int) -> str:
    kind, method = PACKED[frame.kind]
    if method not in link.compressions:
        return f"is compressed by {method.value}, which was not agreed on"
    whole_bytes = payload_bytes(kind, frame.page_count)
    if not whole_bytes - frame.page_count * PAGE_BYTES < frame.payload_bytes < whole_bytes:
        return f"has {frame.payload_bytes} bytes for {frame.page_count} pages, compressed"
    return _place_fault(link, msgspec.structs.replace(frame, kind=kind), spread)


def _place_fault(link: BulkLink, frame: Frame, spread: int) -> str:
    """What is wrong with what a frame names. It is not one of ``PACKED``."""
    if frame.kind in (FrameKind.ROUND_END, FrameKind.END):
        return "names pages" if frame.region or frame.first_page or frame.page_count else ""
    if frame.kind is FrameKind.SPREAD:
        fits = 1 <= frame.page_count <= link.connections and not frame.first_page + frame.region
        return "" if fits else f"spreads over {frame.page_count} of {link.connections} connections"
    if frame.region >= len(link.region_pages):
        return f"names region {frame.region} of {len(link.region_pages)}"
    if frame.kind in (FrameKind.SCATTER, FrameKind.ZERO_SCATTER):
        fits = 1 <= frame.page_count <= SCATTER_PAGES_MAX and frame.first_page == 0
        return "" if fits else f"scatters {frame.page_count} pages from {frame.first_page}"
    if frame.kind is FrameKind.OFFER:
        return _offer_fault(frame)
    return _run_fault(link, frame, spread)


def _offer_fault(frame: Frame) -> str:
    if frame.round_number != FIRST_ROUND:
        return "comes after the first round"
    chunks, rest = divmod(frame.page_count, CHUNK_PAGES)
    fits = 1 <= chunks <= OFFERED_CHUNKS_MAX and rest == 0 and frame.first_page == 0
    return "" if fits else f"offers {frame.page_count} pages from {frame.first_page}"


def _run_fault(link: BulkLink, frame: Frame, spread: int) -> str:
    if not 1 <= frame.page_count <= CHUNK_PAGES - frame.first_page % CHUNK_PAGES:
        return f"has {frame.page_count} pages from page {frame.first_page}, across a chunk's border"
    end = frame.first_page + frame.page_count
    if end > link.region_pages[frame.region]:
        size = link.region_pages[frame.region]
        return f"ends at page {end} of region {frame.region}, which has {size}"
    if connection_of_page(frame.first_page, spread) != frame.connection:
        return f"carries page {frame.first_page}, which travels on another connection"
    return ""
