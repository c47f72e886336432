"""One bulk connection of the source: its share of each round, from mapped memory to a socket.

Used by one thread at a time, which blocks in the kernel with the GIL released. What the other
connections do, and what a round costs in all, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import FIRST_ROUND, BulkLink, BulkWriter, RoundTotals
from godwit_protocol.compression import Compression
from godwit_protocol.errors import RemoteProtocolError

from .compressing import Compressing, Flow
from .connection import BulkConnection
from .digest import PIECE_BYTES, FrameDigest
from .offers import NO_CHUNKS, Answer, Chunks, filled, whole_chunks, without
from .packing import Packer
from .partition import (
    LONG_RUN_PAGES,
    NO_RUNS,
    PageView,
    Runs,
    batches,
    blocks,
    numbers_in,
    pieces_of,
    pieces_on,
    scattered,
    split_zeros,
)
from .rewritten import RewrittenPages
from .sent_leaves import SentLeaves

RUNS_AT_ONCE: Final = 4
"""Runs that go out in one system call. A run fills the caches, so that the interpreter's work for
the next begins with none of its own in them; for four at a time it does so once."""
ANSWER_S_MAX: Final = 30.0
"""To an offer: the destination may read a file that is on a slow disk."""


@dataclass(frozen=True, slots=True)
class RegionWork:
    """What one round sends of one region. No page is named twice."""

    region: int
    """Index into the machine's regions, the same on both hosts."""
    pages: PageView
    """The whole region, mapped. Sending a hole would allocate it: name only pages with data."""
    runs: Runs
    """Pages to send. One that is written meanwhile may go out torn, and must go out again."""
    zero_runs: Runs = field(default_factory=lambda: NO_RUNS)
    """Pages that are known to be zero, and need only be named."""


class Pacer(Protocol):
    """Spaces the frames of all connections, so that a bandwidth cap holds."""

    def take(self, byte_count: int) -> None:
        """Return when ``byte_count`` more bytes may go out. Called by several threads, with at most
        a frame at a time.
        """

    @property
    def bytes_per_second(self) -> int:
        """What may go out now; 0: as much as the link carries."""

    def lift(self) -> None:
        """Let all pass from now on, also what waits: sending is broken off. Idempotent."""


class OutgoingConnection:
    """One bulk connection of the source, used by one thread at a time."""

    def __init__(
        self,
        link: BulkLink,
        index: int,
        connection: BulkConnection,
        pacer: Pacer,
        compressing: Compressing,
        *,
        omit_zeros: bool,
        leaves: SentLeaves | None,
    ) -> None:
        self.connection = connection
        self._leaves = leaves
        self._compressing = compressing
        self._packer = Packer()
        self.begin_round(None, may_offer=False)
        self._omit_zeros = omit_zeros
        self._link = link
        self._index = index
        self._pacer = pacer
        self._writer = BulkWriter(link, index)
        self._digest = FrameDigest(link) if link.digested else None
        self._staging = np.empty(PIECE_BYTES if link.digested else 0, np.uint8)

    @property
    def digest_ns(self) -> int:
        """What digesting has taken so far."""
        return self._digest.duration_ns if self._digest else 0

    @property
    def round_number(self) -> int:
        """The round that is sent next, or just now."""
        return self._writer.round_number

    def hello(self, token: bytes) -> None:
        """Open the connection."""
        self.connection.send(self._writer.preamble(token))

    @property
    def spread(self) -> int:
        """Over how many connections pages go."""
        return self._writer.spread

    def spread_over(self, connections: int) -> None:
        """From the next round on pages go over so many connections; the last one is applied."""
        self.connection.send(self._writer.spread_over(connections), more_follows=True)

    def begin_round(self, rewritten: RewrittenPages | None, *, may_offer: bool) -> None:
        """Count from here. ``rewritten``: if pages are to be looked for that need not go out;
        ``may_offer``: if chunks are to be offered first, should this be the first round.
        """
        self._rewritten = rewritten
        self._may_offer = may_offer
        self.wire_bytes = self.duration_ns = 0
        self.flow = Flow()
        self.zero_pages = self.zero_ns = 0
        self.looked_pages = self.rewritten_pages = self.rewritten_ns = 0
        self.filled_chunks = self.content_ns = 0

    def send_round(self, work: Sequence[RegionWork]) -> RoundTotals:
        """Send this connection's share of a round; return what it came to."""
        started_ns = time.monotonic_ns()
        for region in work:
            there = self._fill(region)
            for runs in blocks(region.runs):
                pieces = pieces_on(runs, self._index, self._writer.spread)
                for some in batches(without(pieces, there)):
                    self._send_pieces(region, some)
            for runs in blocks(region.zero_runs):
                self._send_zeros(region, pieces_on(runs, self._index, self._writer.spread))
        totals = self._writer.totals
        end = self._writer.round_end()
        self.connection.send(end)
        self.wire_bytes += len(end)
        self.duration_ns = time.monotonic_ns() - started_ns
        return totals

    def end(self) -> None:
        """Say that no round follows."""
        self.connection.send(self._writer.end())

    def _fill(self, region: RegionWork) -> Chunks:
        """Let the destination fill what it holds already, and tell what need not be sent.

        A chunk is digested while the guest writes. What it writes after the tracker was reset is
        dirty, whatever the digest saw of it: so what the destination fills may be torn or old as a
        page that was sent may be, and goes out again as that does.
        """
        if not self._may_offer or self.round_number != FIRST_ROUND:
            return NO_CHUNKS
        started_ns = time.monotonic_ns()
        chunks = whole_chunks(region.runs, self._index, self._writer.spread)
        there = filled(region.pages, chunks, lambda *offer: self._answered(region.region, *offer))
        self.filled_chunks += len(there)
        self.content_ns += time.monotonic_ns() - started_ns
        return there

    def _answered(self, region: int, numbers: Chunks, digests: bytes) -> Answer:
        frame = self._writer.offer(region, len(numbers)) + numbers.astype("<u8").tobytes() + digests
        answer = np.empty(len(numbers), np.uint8)
        self._pacer.take(len(frame))
        self.connection.send(frame)
        self.wire_bytes += len(frame)
        self.connection.receive_after_idle(answer.data, ANSWER_S_MAX)
        if answer.max() > 1:
            raise RemoteProtocolError(f"an offer was answered with {answer.tolist()}")
        if self._digest is not None:
            self._digest.add(frame)
            self._digest.add(answer.data)
        self._end_frame()
        self._writer.filled(int(answer.sum()))
        return answer.astype(np.bool_)

    def _send_pieces(self, region: RegionWork, pieces: Runs) -> None:
        """A page that is written after it was found zero is dirty, and goes out again."""
        zeros = NO_RUNS
        if self._omit_zeros:
            started_ns = time.monotonic_ns()
            pieces, zeros = split_zeros(region.pages, pieces)
            self.zero_ns += time.monotonic_ns() - started_ns
        if self._rewritten is not None:
            looked_at, pieces = self._rewritten.parted(pieces)
            self._send_remembered(region, looked_at, self._rewritten)
        if self._leaves is None:
            self._send_runs(region, pieces)
        else:
            self._send_remembered(region, pieces, None)
        self._send_zeros(region, zeros)

    def _send_remembered(
        self, region: RegionWork, pieces: Runs, rewritten: RewrittenPages | None
    ) -> None:
        """Send copies, and remember by their digests what they were: the very bytes that go out."""
        for numbers in scattered(pieces):
            copies = region.pages[numbers]
            if self._leaves is not None:
                self._leaves.add(region.region, numbers, copies)
            if rewritten is None:
                self._send_copies(region, numbers, copies)
            else:
                changed = self._changed(rewritten, region.region, numbers, copies)
                self._send_copies(region, numbers[changed], copies[changed])

    def _changed(
        self,
        rewritten: RewrittenPages,
        region: int,
        numbers: NDArray[np.int64],
        copies: PageView,
    ) -> NDArray[np.bool_] | slice:
        """Which of the pages must go out; all, if all must."""
        started_ns = time.monotonic_ns()
        changed = rewritten.changed(region, numbers, copies)
        self.rewritten_ns += time.monotonic_ns() - started_ns
        unchanged = len(numbers) - int(changed.sum())
        self.rewritten_pages += unchanged
        self.looked_pages += len(numbers)
        return changed if unchanged else slice(None)  # a slice copies nothing

    def _send_copies(
        self, region: RegionWork, numbers: NDArray[np.int64], copies: PageView
    ) -> None:
        """Send pages as they are in ``copies``, at most ``SCATTER_PAGES_MAX``."""
        pieces = pieces_of(numbers)
        counts = pieces[:, 1]
        is_long = counts >= LONG_RUN_PAGES
        places = (np.cumsum(counts) - counts)[is_long]
        for (first, count), place in zip(pieces[is_long].tolist(), places.tolist(), strict=True):
            self._send_copied_run(region, first, copies[place : place + count])
        is_short = np.repeat(~is_long, counts)
        if is_short.any():
            self._send_scatter(region, numbers[is_short], copies[is_short])

    def _send_runs(self, region: RegionWork, pieces: Runs) -> None:
        is_long = pieces[:, 1] >= LONG_RUN_PAGES
        runs = pieces[is_long].tolist()
        for start in range(0, len(runs), RUNS_AT_ONCE):
            self._send_some(region, runs[start : start + RUNS_AT_ONCE])
        for numbers in scattered(pieces[~is_long]):
            # Indexing into a new array is three times as fast as np.take into one that is kept, and
            # the allocator gives the same block again for each frame.
            self._send_scatter(region, numbers, region.pages[numbers])

    def _send_scatter(
        self, region: RegionWork, numbers: NDArray[np.int64], gathered: PageView
    ) -> None:
        names = numbers.astype("<u8").tobytes()
        method, packed = self._packed(gathered)
        if method is Compression.NONE:
            header = self._writer.scatter(region.region, len(numbers))
            self._send_frame(header + names, [gathered.reshape(-1)], gathered.nbytes)
        else:
            header = self._writer.packed_scatter(region.region, len(numbers), method, len(packed))
            self._send_packed(header + names, packed, gathered)

    def _send_some(self, region: RegionWork, runs: list[tuple[int, int]]) -> None:
        """Runs together, unless each must be copied first, or wait for a cap."""
        is_copied = self._digest is not None or self._compressing.method is not Compression.NONE
        if is_copied or self._pacer.bytes_per_second:
            for first, count in runs:
                self._send_run(region, first, count)
            return
        parts: list[bytes | memoryview] = []
        for first, count in runs:
            pages = region.pages[first : first + count].reshape(-1)
            header = self._writer.run(region.region, first, count)
            self._pace(len(header) + pages.nbytes)
            parts += header, pages.data
        self._send_parts(parts)
        self._end_frame()

    def _send_run(self, region: RegionWork, first: int, count: int) -> None:
        pages = region.pages[first : first + count]
        if self._compressing.method is not Compression.NONE:
            return self._send_copied_run(region, first, pages.copy())
        header = self._writer.run(region.region, first, count)
        whole = pages.reshape(-1)
        payload = [whole] if self._digest is None else self._staged(whole)
        return self._send_frame(header, payload, pages.nbytes)

    def _send_copied_run(self, region: RegionWork, first: int, copies: PageView) -> None:
        """Send a run as it is in ``copies``."""
        method, packed = self._packed(copies)
        if method is Compression.NONE:
            header = self._writer.run(region.region, first, len(copies))
            self._send_frame(header, [copies.reshape(-1)], copies.nbytes)
        else:
            header = self._writer.packed_run(region.region, first, len(copies), method, len(packed))
            self._send_packed(header, packed, copies)

    def _packed(self, copies: PageView) -> tuple[Compression, bytes]:
        """How pages are to go out, and compressed so; what does not become smaller, as it is."""
        method = self._compressing.method
        if method is Compression.NONE:
            return method, b""
        started_ns = time.monotonic_ns()
        packed = self._packer.packed(method, copies.reshape(-1).data)
        self.flow.packing_ns += time.monotonic_ns() - started_ns
        return (method, packed) if len(packed) < copies.nbytes else (Compression.NONE, b"")

    def _send_packed(self, head: bytes, packed: bytes, copies: PageView) -> None:
        """The digest is of the pages, as the destination will have them."""
        if self._digest is not None:
            self._digest.add(head)
            self._digest.add(copies.reshape(-1).data)
        self._pace(len(head) + len(packed))
        self._send_parts((head, packed))
        self.flow.saved_bytes += copies.nbytes - len(packed)
        self._end_frame()

    def _staged(self, pages: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Copies of ``pages``, a piece at a time. The guest writes meanwhile: what is digested and
        what is sent must be the same bytes. Each lasts until the next is asked for.
        """
        for start in range(0, len(pages), PIECE_BYTES):
            piece = pages[start : start + PIECE_BYTES]
            staged = self._staging[: len(piece)]
            staged[:] = piece
            yield staged

    def _send_frame(
        self, head: bytes, payload: Iterable[NDArray[np.uint8]], payload_bytes: int
    ) -> None:
        self._pace(len(head) + payload_bytes)
        for piece in payload:
            if self._digest is not None:
                self._digest.add(head)
                self._digest.add(piece.data)
            self._send_parts((head, piece.data))
            head = b""
        self._end_frame()

    def _pace(self, byte_count: int) -> None:
        """Wait until a frame with pages may go out."""
        started_ns = time.monotonic_ns()
        self._pacer.take(byte_count)
        self.flow.paced_ns += time.monotonic_ns() - started_ns

    def _send_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send parts of frames with pages."""
        started_ns = time.monotonic_ns()
        self.connection.send_parts(parts)
        self.flow.sending_ns += time.monotonic_ns() - started_ns
        byte_count = sum(map(len, parts))
        self.flow.wire_bytes += byte_count
        self.wire_bytes += byte_count

    def _end_frame(self) -> None:
        if self._digest is not None:
            self._writer.digested(self._digest.taken())
        self._compressing.look()

    def _send_zeros(self, region: RegionWork, pieces: Runs) -> None:
        self.zero_pages += int(pieces[:, 1].sum())
        if self._rewritten is not None:
            self._rewritten.sent_as_zeros(region.region, numbers_in(pieces))
        is_long = pieces[:, 1] >= LONG_RUN_PAGES
        for first, count in pieces[is_long].tolist():
            self._send_bare(self._writer.zero(region.region, first, count))
        for numbers in scattered(pieces[~is_long]):
            header = self._writer.zero_scatter(region.region, len(numbers))
            self._send_bare(header + numbers.astype("<u8").tobytes())

    def _send_bare(self, frame: bytes) -> None:
        """Send a frame that carries no page."""
        self._pacer.take(len(frame))
        if self._digest is not None:
            self._digest.add(frame)
        self.connection.send(frame, more_follows=True)
        self.wire_bytes += len(frame)
        self._end_frame()
