"""The source's end of the bulk connections: rounds of pages, from mapped memory to sockets.

One thread a connection, blocking in the kernel with the GIL released. Which pages make a round, and
what the rounds mean, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import reduce
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import BulkLink, BulkWriter, RoundTotals, packed_digest
from godwit_protocol.errors import AbortedError, LocalProtocolError, UnreachableError
from godwit_protocol.machine import PAGE_BYTES

from .connection import CONNECT_TIMEOUT_S, STALL_S, BulkConnection
from .digest import PIECE_BYTES, FrameDigest
from .partition import (
    LONG_RUN_PAGES,
    NO_RUNS,
    PageView,
    Runs,
    batches,
    blocks,
    check_runs,
    numbers_in,
    pieces_of,
    pieces_on,
    scattered,
    split_zeros,
)
from .rewritten import RewrittenPages

T = TypeVar("T")

SMALL_ROUND_PAGES: Final = 64
"""A round of so few is sent by one thread, one connection after the other."""


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


@dataclass(frozen=True, slots=True)
class SentRound:
    """What a round cost on the source: all of it was handed to the kernel."""

    pages: int
    """Zero pages included."""
    sent_bytes: int
    """Bytes of pages that went out."""
    wire_bytes: int
    """Those, and everything that frames them."""
    frames: int
    duration_ns: int
    digest_ns: int
    """What digesting took of the connections' threads, together."""
    zero_bytes: int
    """Pages that were zero, and only named."""
    zero_ns: int
    """What finding them took of the connections' threads, together."""
    rewritten_bytes: int
    """Pages that held what was sent of them before, and were left out."""
    rewritten_ns: int
    """What finding them took of the connections' threads, together."""


class Pacer(Protocol):
    """Spaces the frames of all connections, so that a bandwidth cap holds."""

    def take(self, byte_count: int) -> None:
        """Return when ``byte_count`` more bytes may go out. Called by several threads, with at most
        a frame at a time; must return within a second, granted or not, so that an abort is heard.
        """


class _Unpaced:
    def take(self, byte_count: int) -> None:
        pass


class _Outgoing:
    """One bulk connection of the source, used by one thread at a time."""

    def __init__(
        self,
        link: BulkLink,
        index: int,
        connection: BulkConnection,
        pacer: Pacer,
        *,
        omit_zeros: bool,
    ) -> None:
        self.connection = connection
        self.begin_round(None)
        self._omit_zeros = omit_zeros
        self._link = link
        self._index = index
        self._pacer = pacer
        self._writer = BulkWriter(link, index)
        self._digest = FrameDigest(link) if link.digested else None
        self._staging = np.empty(PIECE_BYTES if link.digested else 0, np.uint8)

    @property
    def digest_ns(self) -> int:
        return self._digest.duration_ns if self._digest else 0

    @property
    def round_number(self) -> int:
        return self._writer.round_number

    def hello(self, token: bytes) -> None:
        self.connection.send(self._writer.preamble(token))

    def begin_round(self, rewritten: RewrittenPages | None) -> None:
        """Count from here. ``rewritten``: if pages are to be looked for that need not go out."""
        self._rewritten = rewritten
        self.wire_bytes = self.duration_ns = 0
        self.zero_pages = self.zero_ns = 0
        self.rewritten_pages = self.rewritten_ns = 0

    def send_round(self, work: Sequence[RegionWork]) -> RoundTotals:
        started_ns = time.monotonic_ns()
        for region in work:
            for runs in blocks(region.runs):
                for pieces in batches(pieces_on(runs, self._index, self._link.connections)):
                    self._send_pieces(region, pieces)
            for runs in blocks(region.zero_runs):
                self._send_zeros(region, pieces_on(runs, self._index, self._link.connections))
        totals = self._writer.totals
        end = self._writer.round_end()
        self.connection.send(end)
        self.wire_bytes += len(end)
        self.duration_ns = time.monotonic_ns() - started_ns
        return totals

    def end(self) -> None:
        self.connection.send(self._writer.end())

    def _send_pieces(self, region: RegionWork, pieces: Runs) -> None:
        """A page that is written after it was found zero is dirty, and goes out again."""
        zeros = NO_RUNS
        if self._omit_zeros:
            started_ns = time.monotonic_ns()
            pieces, zeros = split_zeros(region.pages, pieces)
            self.zero_ns += time.monotonic_ns() - started_ns
        if self._rewritten is None:
            self._send_runs(region, pieces)
        else:
            self._send_changed(region, pieces, self._rewritten)
        self._send_zeros(region, zeros)

    def _send_changed(self, region: RegionWork, pieces: Runs, rewritten: RewrittenPages) -> None:
        for numbers in scattered(pieces):
            copies = region.pages[numbers]
            started_ns = time.monotonic_ns()
            changed = rewritten.changed(region.region, numbers, copies)
            self.rewritten_ns += time.monotonic_ns() - started_ns
            if not changed.all():
                self.rewritten_pages += len(numbers) - int(changed.sum())
                numbers, copies = numbers[changed], copies[changed]  # noqa: PLW2901
            self._send_copies(region, numbers, copies)

    def _send_copies(
        self, region: RegionWork, numbers: NDArray[np.int64], copies: PageView
    ) -> None:
        """Send pages as they are in ``copies``, at most ``SCATTER_PAGES_MAX``."""
        pieces = pieces_of(numbers)
        counts = pieces[:, 1]
        is_long = counts >= LONG_RUN_PAGES
        places = (np.cumsum(counts) - counts)[is_long]
        for (first, count), place in zip(pieces[is_long].tolist(), places.tolist(), strict=True):
            header = self._writer.run(region.region, first, count)
            self._send_gathered(header, copies[place : place + count])
        is_short = np.repeat(~is_long, counts)
        if is_short.any():
            self._send_scatter(region, numbers[is_short], copies[is_short])

    def _send_runs(self, region: RegionWork, pieces: Runs) -> None:
        is_long = pieces[:, 1] >= LONG_RUN_PAGES
        for first, count in pieces[is_long].tolist():
            self._send_run(region, first, count)
        for numbers in scattered(pieces[~is_long]):
            # Indexing into a new array is three times as fast as np.take into one that is kept, and
            # the allocator gives the same block again for each frame.
            self._send_scatter(region, numbers, region.pages[numbers])

    def _send_scatter(
        self, region: RegionWork, numbers: NDArray[np.int64], gathered: PageView
    ) -> None:
        header = self._writer.scatter(region.region, len(numbers))
        self._send_gathered(header + numbers.astype("<u8").tobytes(), gathered)

    def _send_gathered(self, head: bytes, pages: PageView) -> None:
        self._pacer.take(len(head) + pages.nbytes)
        self._send_frame(head, [pages.reshape(-1)])

    def _send_run(self, region: RegionWork, first: int, count: int) -> None:
        header = self._writer.run(region.region, first, count)
        pages = region.pages[first : first + count].reshape(-1)
        self._pacer.take(len(header) + pages.nbytes)
        self._send_frame(header, [pages] if self._digest is None else self._staged(pages))

    def _staged(self, pages: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Copies of ``pages``, a piece at a time. The guest writes meanwhile: what is digested and
        what is sent must be the same bytes. Each lasts until the next is asked for.
        """
        for start in range(0, len(pages), PIECE_BYTES):
            piece = pages[start : start + PIECE_BYTES]
            staged = self._staging[: len(piece)]
            staged[:] = piece
            yield staged

    def _send_frame(self, head: bytes, payload: Iterable[NDArray[np.uint8]]) -> None:
        for piece in payload:
            if self._digest is not None:
                self._digest.add(head)
                self._digest.add(piece.data)
            self.connection.send_framed(head, piece.data)
            self.wire_bytes += len(head) + piece.nbytes
            head = b""
        self._end_frame()

    def _end_frame(self) -> None:
        if self._digest is not None:
            self._writer.digested(self._digest.taken())

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


class BulkSender:
    """The bulk connections of one migration, on its source.

    One caller sends; ``abort`` and ``progress`` may be called by any thread meanwhile. After any
    error nothing more can be sent. Close it in the end, whatever happened.
    """

    def __init__(
        self,
        link: BulkLink,
        connections: Sequence[BulkConnection],
        pacer: Pacer,
        *,
        omit_zeros: bool,
        omit_rewritten: bool,
    ) -> None:
        """Use ``connect`` instead."""
        self._link = link
        self._rewritten = RewrittenPages(link.region_pages) if omit_rewritten else None
        self._outgoing = [
            _Outgoing(link, index, connection, pacer, omit_zeros=omit_zeros)
            for index, connection in enumerate(connections)
        ]
        self._threads = ThreadPoolExecutor(len(connections), thread_name_prefix="bulk-send")
        self._sent = RoundTotals()
        self._aborted = False

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        link: BulkLink,
        token: bytes,
        *,
        pacer: Pacer | None = None,
        omit_zeros: bool = True,
        omit_rewritten: bool = True,
        timeout_s: float = CONNECT_TIMEOUT_S,
        stall_s: float = STALL_S,
    ) -> BulkSender:
        """Open all connections and say hello on each; blocks. ``omit_zeros``: pages that are found
        to be zero are named only. ``omit_rewritten``: those that hold what was sent of them before
        are left out, as long as finding them is measured to pay.

        Whether the destination admitted them is for it to say, on the control connection. Raises
        ``UnreachableError``.
        """
        link.checked()
        connections: list[BulkConnection] = []
        try:
            for _ in range(link.connections):
                opened = BulkConnection.open(host, port, timeout_s=timeout_s, stall_s=stall_s)
                connections.append(opened)
            sender = cls(
                link,
                connections,
                pacer or _Unpaced(),
                omit_zeros=omit_zeros,
                omit_rewritten=omit_rewritten,
            )
            for outgoing in sender._outgoing:
                outgoing.hello(token)
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        return sender

    def send_round(
        self, round_number: int, work: Sequence[RegionWork], *, in_stun: bool = False
    ) -> SentRound:
        """Send a round, and block until the kernel has all of it. Rounds count from 1, no gaps.
        ``in_stun``: the guest is paused, and nothing is tried that may take longer.

        That the destination has applied it is for the destination to say. Raises
        ``LocalProtocolError`` for another round or runs outside a region (nothing was sent then),
        ``UnreachableError`` when the peer is gone or takes nothing, ``AbortedError`` after
        ``abort``.
        """
        self._check(round_number, work)
        started_ns, digested_ns = time.monotonic_ns(), self._digest_ns()
        rewritten = self._rewritten_sought(round_number, in_stun=in_stun)
        for outgoing in self._outgoing:
            outgoing.begin_round(rewritten)
        is_small = sum(int(region.runs[:, 1].sum()) for region in work) <= SMALL_ROUND_PAGES
        on_all = self._one_by_one if is_small else self._on_every_connection
        totals = reduce(RoundTotals.plus, on_all(lambda outgoing: outgoing.send_round(work)))
        self._sent = self._sent.plus(totals)
        zero_pages = sum(outgoing.zero_pages for outgoing in self._outgoing)
        sent = SentRound(
            pages=totals.pages,
            sent_bytes=(totals.pages - zero_pages) * PAGE_BYTES,
            wire_bytes=self.progress(),
            frames=totals.frames,
            duration_ns=time.monotonic_ns() - started_ns,
            digest_ns=self._digest_ns() - digested_ns,
            zero_bytes=zero_pages * PAGE_BYTES,
            zero_ns=sum(outgoing.zero_ns for outgoing in self._outgoing),
            rewritten_bytes=sum(each.rewritten_pages for each in self._outgoing) * PAGE_BYTES,
            rewritten_ns=sum(outgoing.rewritten_ns for outgoing in self._outgoing),
        )
        self._judge(sent)
        return sent

    def sent_digest(self) -> bytes:
        """Of all that was sent in the rounds so far; empty if it is not digested."""
        return packed_digest(self._sent.digest) if self._link.digested else b""

    def progress(self) -> int:
        """Bytes of the current or last round that were handed to the kernel so far."""
        return sum(outgoing.wire_bytes for outgoing in self._outgoing)

    def end(self) -> None:
        """Tell the destination that no round follows, and close. Raises as ``send_round`` does;
        then ``close`` is still to be called.
        """
        self._on_every_connection(_Outgoing.end)
        self._free()

    def abort(self) -> None:
        """Break all connections off, from any thread; a round that is being sent raises then.

        Idempotent, does not block.
        """
        self._aborted = True
        self._break_off()

    def close(self) -> None:
        """Free sockets and threads, breaking off what is being sent. Idempotent."""
        self.abort()
        self._free()

    def _rewritten_sought(self, round_number: int, *, in_stun: bool) -> RewrittenPages | None:
        rewritten = self._rewritten
        is_sought = rewritten and rewritten.is_sought(round_number, in_stun=in_stun)
        return rewritten if is_sought else None

    def _judge(self, sent: SentRound) -> None:
        if self._rewritten is not None:
            threads_ns = sum(outgoing.duration_ns for outgoing in self._outgoing)
            self._rewritten.judge(
                sent=sent.sent_bytes // PAGE_BYTES,
                omitted=sent.rewritten_bytes // PAGE_BYTES,
                sending_ns=threads_ns - sent.zero_ns - sent.rewritten_ns,
                looking_ns=sent.rewritten_ns,
            )

    def _digest_ns(self) -> int:
        return sum(outgoing.digest_ns for outgoing in self._outgoing)

    def _check(self, round_number: int, work: Sequence[RegionWork]) -> None:
        upcoming = self._outgoing[0].round_number
        if round_number != upcoming:
            raise LocalProtocolError(f"round {round_number} is to be sent, and {upcoming} is next")
        for region in work:
            if len(region.pages) != self._link.region_pages[region.region]:
                raise LocalProtocolError(
                    f"region {region.region} has {len(region.pages)} pages, and the link was told"
                    f" {self._link.region_pages[region.region]}"
                )
            check_runs(region.runs, len(region.pages))
            check_runs(region.zero_runs, len(region.pages))

    def _one_by_one(self, act: Callable[[_Outgoing], T]) -> list[T]:
        """As ``_on_every_connection``, on this thread: less than it takes to wake others up."""
        try:
            return [act(outgoing) for outgoing in self._outgoing]
        except UnreachableError as error:
            self._break_off()
            if self._aborted:
                raise AbortedError("sending was aborted") from error
            raise

    def _on_every_connection(self, act: Callable[[_Outgoing], T]) -> list[T]:
        """Let each connection's thread ``act``. The first failure breaks the others off too."""
        acting = [self._threads.submit(act, outgoing) for outgoing in self._outgoing]
        failure = _first_failure(acting, self._break_off)
        if failure is None:
            return [each.result() for each in acting]
        if self._aborted:
            raise AbortedError("sending was aborted") from failure
        raise failure

    def _break_off(self) -> None:
        for outgoing in self._outgoing:
            outgoing.connection.break_off()

    def _free(self) -> None:
        self._threads.shutdown()
        for outgoing in self._outgoing:
            outgoing.connection.close()


def _first_failure(acting: Sequence[Future[T]], stop: Callable[[], None]) -> BaseException | None:
    """Wait for all; at the first failure call ``stop``, so that the wait ends, and return it."""
    first: BaseException | None = None
    for done in as_completed(acting):
        if first is None and (first := done.exception()) is not None:
            stop()
    return first
