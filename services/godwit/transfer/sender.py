"""The source's end of the bulk connections: rounds of pages, from mapped memory to sockets.

One thread a connection, blocking in the kernel with the GIL released. Which pages make a round, and
what the rounds mean, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from typing import Final, TypeVar

from godwit_protocol.bulk import CHUNK_PAGES, FIRST_ROUND, BulkLink, RoundTotals, packed_digest
from godwit_protocol.compression import Compression
from godwit_protocol.connections import TELLING_BYTES, Carried, may_try, next_number
from godwit_protocol.errors import AbortedError, LocalProtocolError, UnreachableError
from godwit_protocol.machine import PAGE_BYTES

from .compressing import Compressing
from .connection import CONNECT_TIMEOUT_S, STALL_S, BulkConnection
from .outgoing import OutgoingConnection, Pacer, RegionWork
from .partition import check_runs
from .rewritten import RewrittenPages
from .sent_leaves import SentLeaves

T = TypeVar("T")

SMALL_ROUND_PAGES: Final = 64
"""A round of so few is sent by one thread, one connection after the other."""


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
    looked_bytes: int = 0
    """Pages that were looked at for that."""
    content_bytes: int = 0
    """Chunks that the destination held already, and that were only named."""
    content_ns: int = 0
    """What offering chunks took of the round, on the connection that it took longest on."""
    compression: Compression = Compression.NONE
    """By which pages were compressed, if any were."""
    compression_bytes: int = 0
    """Of those sent, what it left out."""
    compression_ns: int = 0
    """What it took of the connections' threads, together, with trying it."""
    link_bytes_per_second: int = 0
    """What the link carries, as measured where pages were compressed; else 0."""
    connections: int = 0
    """How many carried the pages."""


class _Unpaced:
    bytes_per_second = 0

    def take(self, byte_count: int) -> None:
        pass

    def lift(self) -> None:
        pass


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
        offer_content: bool,
        leaves: SentLeaves | None,
        spread: int,
    ) -> None:
        """Use ``connect`` instead."""
        self._link = link
        self._spread = spread
        self._carried: list[Carried] = []
        self._found_pages = 0
        """What the last round was to send."""
        # What the destination fills does not pass by, and could not be entered.
        self._offer_content = offer_content and leaves is None
        self._leaves = leaves
        self._rewritten = RewrittenPages(link.region_pages) if omit_rewritten else None
        self._compressing = Compressing(link.compressions, pacer)
        self._outgoing = [
            OutgoingConnection(
                link,
                index,
                connection,
                pacer,
                self._compressing,
                omit_zeros=omit_zeros,
                leaves=leaves,
            )
            for index, connection in enumerate(connections)
        ]
        self._pacer = pacer
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
        offer_content: bool = False,
        leaves: SentLeaves | None = None,
        spread: int = 0,
        timeout_s: float = CONNECT_TIMEOUT_S,
        stall_s: float = STALL_S,
    ) -> BulkSender:
        """Open all connections and say hello on each; blocks. ``omit_zeros``: pages that are found
        to be zero are named only. ``omit_rewritten``: those that hold what was sent of them before
        are left out, as long as finding them is measured to pay. ``offer_content``: chunks are
        offered to the destination before they are sent, which it must have asked for. ``leaves``:
        where to enter what goes out; nothing is offered then. ``spread``: over how many of the
        connections the first round goes; then as many as are measured to carry most. 0: over all,
        always.

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
                offer_content=offer_content,
                leaves=leaves,
                spread=spread,
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
        """Send a round, and block until the kernel has all of it. Rounds count from 1, no gaps, and
        the destination has applied the last one. ``in_stun``: the guest is paused, and nothing is
        tried that may take longer.

        That the destination has applied it is for the destination to say. Raises
        ``LocalProtocolError`` for another round or runs outside a region (nothing was sent then),
        ``UnreachableError`` when the peer is gone or takes nothing, ``RemoteProtocolError`` for an
        answer that is none, ``AbortedError`` after ``abort``.
        """
        self._check(round_number, work)
        started_ns, digested_ns = time.monotonic_ns(), self._digest_ns()
        self._begin_leaves(work)
        rewritten = self._rewritten_sought(round_number, in_stun=in_stun)
        may_offer = self._offer_content and not in_stun
        for outgoing in self._outgoing:
            outgoing.begin_round(rewritten, may_offer=may_offer)
        found_pages = sum(int(region.runs[:, 1].sum()) for region in work)
        if self._spread and not in_stun:
            self._spread_pages(round_number, trying=may_try(found_pages, self._found_pages))
        self._found_pages = found_pages
        spread = self._outgoing[0].spread
        flows = [outgoing.flow for outgoing in self._outgoing[:spread]]
        self._compressing.begin_round(work, flows, in_stun=in_stun)
        is_small = found_pages <= SMALL_ROUND_PAGES
        on_all = self._one_by_one if is_small else self._on_every_connection
        totals = reduce(RoundTotals.plus, on_all(lambda outgoing: outgoing.send_round(work)))
        self._sent = self._sent.plus(totals)
        zero_pages = sum(outgoing.zero_pages for outgoing in self._outgoing)
        content_pages = CHUNK_PAGES * sum(outgoing.filled_chunks for outgoing in self._outgoing)
        link_bytes_per_second = self._compressing.end_round()
        sent = SentRound(
            pages=totals.pages,
            sent_bytes=(totals.pages - zero_pages - content_pages) * PAGE_BYTES,
            wire_bytes=self.progress(),
            frames=totals.frames,
            duration_ns=time.monotonic_ns() - started_ns,
            digest_ns=self._digest_ns() - digested_ns,
            zero_bytes=zero_pages * PAGE_BYTES,
            zero_ns=sum(outgoing.zero_ns for outgoing in self._outgoing),
            rewritten_bytes=sum(each.rewritten_pages for each in self._outgoing) * PAGE_BYTES,
            rewritten_ns=sum(outgoing.rewritten_ns for outgoing in self._outgoing),
            looked_bytes=sum(each.looked_pages for each in self._outgoing) * PAGE_BYTES,
            content_bytes=content_pages * PAGE_BYTES,
            content_ns=max(outgoing.content_ns for outgoing in self._outgoing),
            compression=self._compressing.used,
            compression_bytes=sum(flow.saved_bytes for flow in flows),
            compression_ns=sum(flow.packing_ns for flow in flows) + self._compressing.sampling_ns,
            link_bytes_per_second=link_bytes_per_second,
            connections=spread,
        )
        self._judge(sent)
        self._note(round_number, sent)
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
        self._on_every_connection(OutgoingConnection.end)
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

    def _begin_leaves(self, work: Sequence[RegionWork]) -> None:
        if self._leaves is not None:
            for region in work:
                self._leaves.begin(region.region, region.runs)
                self._leaves.begin(region.region, region.zero_runs)

    def _rewritten_sought(self, round_number: int, *, in_stun: bool) -> RewrittenPages | None:
        rewritten = self._rewritten
        is_sought = rewritten and rewritten.is_sought(round_number, in_stun=in_stun)
        return rewritten if is_sought else None

    def _spread_pages(self, round_number: int, *, trying: bool) -> None:
        """Over another number of connections, if that is faster or to be tried. An address may go
        by another one then: the round before is applied, so nothing older is under way.
        """
        number = self._outgoing[0].spread
        if round_number == FIRST_ROUND:
            number = self._spread
        elif self._carried:
            number = next_number(self._carried, self._link.connections, trying=trying)
        if number != self._outgoing[0].spread:
            self._one_by_one(lambda outgoing: outgoing.spread_over(number))

    def _note(self, round_number: int, sent: SentRound) -> None:
        """The first round is of long runs, and no measure for those that follow."""
        is_free = sent.compression is Compression.NONE and not self._pacer.bytes_per_second
        if round_number > FIRST_ROUND and sent.sent_bytes >= TELLING_BYTES and is_free:
            rate = sent.wire_bytes / sent.duration_ns * 1e9
            self._carried.append(Carried(sent.connections, rate))

    def _judge(self, sent: SentRound) -> None:
        if self._rewritten is not None:
            threads_ns = sum(each.duration_ns - each.content_ns for each in self._outgoing)
            self._rewritten.judge(
                sent=sent.sent_bytes // PAGE_BYTES,
                looked=sent.looked_bytes // PAGE_BYTES,
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

    def _one_by_one(self, act: Callable[[OutgoingConnection], T]) -> list[T]:
        """As ``_on_every_connection``, on this thread: less than it takes to wake others up."""
        try:
            return [act(outgoing) for outgoing in self._outgoing]
        except UnreachableError as error:
            self._break_off()
            if self._aborted:
                raise AbortedError("sending was aborted") from error
            raise

    def _on_every_connection(self, act: Callable[[OutgoingConnection], T]) -> list[T]:
        """Let each connection's thread ``act``. The first failure breaks the others off too."""
        acting = [self._threads.submit(act, outgoing) for outgoing in self._outgoing]
        failure = _first_failure(acting, self._break_off)
        if failure is None:
            return [each.result() for each in acting]
        if self._aborted:
            raise AbortedError("sending was aborted") from failure
        raise failure

    def _break_off(self) -> None:
        self._pacer.lift()
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
