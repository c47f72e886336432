"""The destination's end of the bulk connections: from sockets into the machine's memory.

One thread a connection, blocking in the kernel with the GIL released; a run is received straight
into the mapped region. What is known on the event loop is only how far the rounds have come. What
the rounds mean is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final, TypeVarTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from godwit.runtime.frames import let_go
from godwit_protocol.bulk import (
    CHUNK_DIGEST_BYTES,
    CHUNK_PAGES,
    FIRST_ROUND,
    PACKED,
    PAGE_NUMBER_BYTES,
    SCATTER_PAGES_MAX,
    TOTALS_BYTES,
    BulkLink,
    BulkReader,
    RoundTotals,
    packed_digest,
)
from godwit_protocol.errors import (
    AbortedError,
    CorruptError,
    DeadlineError,
    GodwitError,
    LocalProtocolError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.framing import HEADER_BYTES, Frame, FrameKind, Preamble
from godwit_protocol.machine import PAGE_BYTES

from .connection import STALL_S, BulkConnection, ConnectionLostError
from .digest import PIECE_BYTES, FrameDigest
from .packing import Packer
from .partition import PageView
from .port import Content

IDLE_S_MAX: Final = math.inf
"""How long a connection may carry nothing between two frames: one that carries no pages has nothing
for as long as a round takes. A source that is silent for ever is not found here: the control link
notices its silence, and the migration's deadline ends what is still being received.
"""
CLOSE_TIMEOUT_S: Final = 5.0
FILL_S_MAX: Final = 2.0
"""How long one offer's chunks may be filled: the others are answered with no, and travel."""
_SCATTER_BYTES_MAX: Final = SCATTER_PAGES_MAX * (PAGE_NUMBER_BYTES + PAGE_BYTES)

Ts = TypeVarTuple("Ts")


class _Incoming:
    """One bulk connection of the destination, used by its own thread."""

    def __init__(
        self,
        link: BulkLink,
        index: int,
        connection: BulkConnection,
        regions: Sequence[PageView],
        content: Content | None,
        may_change: Callable[[int], bool],
    ) -> None:
        """``may_change``: whether all that came before a round is applied."""
        self._may_change = may_change
        self._is_sealed = False
        self._index = index
        self._connection = connection
        self._regions = regions
        self._content = content
        self._reader = BulkReader(link, index)
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._totals = memoryview(bytearray(TOTALS_BYTES))
        self._digest = FrameDigest(link) if link.digested else None
        self._packer = Packer()
        # Room for what is not received in place: scattered pages, and compressed runs.
        self._taken = np.empty(max(_SCATTER_BYTES_MAX, CHUNK_PAGES * PAGE_BYTES), np.uint8)

    def serve(self, round_ended: Callable[[int, RoundTotals], None]) -> None:
        """Apply frames until END. Raises ``RemoteProtocolError``, ``CorruptError`` or
        ``ConnectionLostError``.
        """
        try:
            self._serve_frames(round_ended)
        except ConnectionLostError as error:
            place = f"bulk connection {self._index}, round {self._reader.round_number}"
            raise ConnectionLostError(f"{place}: {error.message}") from error

    def _serve_frames(self, round_ended: Callable[[int, RoundTotals], None]) -> None:
        while self._reader.need is not None:
            self._connection.receive_after_idle(self._header, IDLE_S_MAX)
            frame = self._reader.take_header(self._header)
            if self._is_sealed and frame.kind is not FrameKind.END:
                raise RemoteProtocolError(f"a {frame.kind.name} frame comes after the last round")
            match frame.kind:
                case FrameKind.ROUND_END:
                    self._connection.receive(self._totals)
                    round_ended(frame.round_number, self._reader.take_totals(self._totals))
                case FrameKind.END:
                    pass  # the reader needs no more
                case FrameKind.SPREAD:
                    self._check_change(frame)
                case _:
                    self._digest_more(self._header)
                    self._take_pages(frame)
                    if self._digest is not None:
                        self._reader.digested(self._digest.taken())

    @property
    def round_number(self) -> int:
        """The round that comes next, or is coming."""
        return self._reader.round_number

    def seal(self, round_number: int) -> bool:
        """From now on take nothing but END. Whether nothing has come after that round; asked by
        another thread.

        Sealed before it looks: a frame that was not refused is seen here. Two looks, in this order:
        a round that ends between them has the next one's number by the second.
        """
        self._is_sealed = True
        return self._reader.is_between_rounds and self._reader.round_number == round_number + 1

    def _check_change(self, frame: Frame) -> None:
        """An address may come on another connection now: what came before must be in its place."""
        if not self._may_change(frame.round_number):
            raise RemoteProtocolError(
                f"a {frame.kind.name} frame comes while round {frame.round_number - 1} is under way"
            )

    def _take_pages(self, frame: Frame) -> None:
        match frame.kind:
            case FrameKind.RUN:
                self._take_run(frame)
            case FrameKind.ZERO:
                self._pages_of(frame).fill(0)
            case FrameKind.OFFER:
                self._take_offer(frame)
            case FrameKind.RUN_LZ4 | FrameKind.RUN_ZSTD:
                self._take_packed_run(frame)
            case _:
                self._take_scatter(frame)

    def _digest_more(self, data: memoryview) -> None:
        if self._digest is not None:
            self._digest.add(data)

    def _pages_of(self, frame: Frame) -> PageView:
        return self._regions[frame.region][frame.first_page : frame.first_page + frame.page_count]

    def _take_run(self, frame: Frame) -> None:
        place = self._pages_of(frame).data.cast("B")
        piece_bytes = len(place) if self._digest is None else PIECE_BYTES
        for start in range(0, len(place), piece_bytes):
            piece = place[start : start + piece_bytes]
            self._connection.receive(piece)
            self._digest_more(piece)  # from the machine's memory: what was applied
        self._reader.payload_taken()

    def _take_scatter(self, frame: Frame) -> None:
        payload = self._taken[: frame.payload_bytes]
        self._connection.receive(payload.data)
        numbers_bytes = frame.page_count * PAGE_NUMBER_BYTES
        numbers = payload[:numbers_bytes].view("<u8")
        pages = self._unpacked(frame, payload[numbers_bytes:])
        self._digest_more(payload[:numbers_bytes].data)
        self._digest_more(pages.data)
        self._check_numbers(frame, numbers)
        region = self._regions[frame.region]
        if frame.kind is FrameKind.ZERO_SCATTER:
            region[numbers.astype(np.int64)] = 0
        else:
            region[numbers.astype(np.int64)] = pages.reshape(frame.page_count, PAGE_BYTES)
        self._reader.payload_taken()

    def _take_packed_run(self, frame: Frame) -> None:
        payload = self._taken[: frame.payload_bytes]
        self._connection.receive(payload.data)
        place = self._pages_of(frame).reshape(-1)
        place[:] = self._unpacked(frame, payload)
        self._digest_more(place.data)
        self._reader.payload_taken()

    def _unpacked(self, frame: Frame, pages: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of a frame's pages, which came as ``pages``. Raises ``CorruptError``."""
        if frame.kind not in PACKED:
            return pages
        _, method = PACKED[frame.kind]
        whole_bytes = frame.page_count * PAGE_BYTES
        return np.frombuffer(self._packer.unpacked(method, pages.data, whole_bytes), np.uint8)

    def _take_offer(self, frame: Frame) -> None:
        """Fill what is held already, and answer. What is filled in vain is overwritten: the source
        sends every page of a chunk that it offered in vain.
        """
        payload = self._taken[: frame.payload_bytes]
        self._connection.receive(payload.data)
        self._digest_more(payload.data)
        chunk_count = frame.page_count // CHUNK_PAGES
        numbers = payload[: chunk_count * PAGE_NUMBER_BYTES].view("<u8")
        digests = payload[chunk_count * PAGE_NUMBER_BYTES :].reshape(-1, CHUNK_DIGEST_BYTES)
        self._check_numbers(frame, numbers, CHUNK_PAGES)
        self._reader.payload_taken()
        answer = self._filled(self._regions[frame.region], numbers, digests)
        self._digest_more(memoryview(answer))
        self._connection.send(answer)
        self._reader.filled(sum(answer))

    def _filled(
        self, pages: PageView, numbers: NDArray[np.uint64], digests: NDArray[np.uint8]
    ) -> bytes:
        """A byte a chunk: 1 if it is in memory now."""
        answer = bytearray(len(numbers))
        if self._content is not None:
            deadline = time.monotonic() + FILL_S_MAX
            for index, number in enumerate(numbers.tolist()):
                place = pages[number * CHUNK_PAGES : (number + 1) * CHUNK_PAGES].data.cast("B")
                in_time = time.monotonic() < deadline
                answer[index] = in_time and self._content.fill(digests[index].tobytes(), place)
        return bytes(answer)

    def _check_numbers(
        self, frame: Frame, numbers: NDArray[np.uint64], pages_each: int = 1
    ) -> None:
        """``pages_each``: numbers count blocks of so many pages, which divides a chunk."""
        end = len(self._regions[frame.region]) // pages_each
        if numbers.max() >= end:
            raise RemoteProtocolError(
                f"a {frame.kind.name} frame names {'page' if pages_each == 1 else 'chunk'}"
                f" {numbers.max()} of region {frame.region}, which has {end}"
            )
        chunks = numbers // (CHUNK_PAGES // pages_each)
        if np.any(chunks % self._reader.spread != self._index):
            raise RemoteProtocolError(
                f"a {frame.kind.name} frame names pages that travel on another connection"
            )


@dataclass(slots=True)
class _RoundProgress:
    connections_ended: int = 0
    totals: RoundTotals = field(default_factory=RoundTotals)


class IncomingSession:
    """The bulk connections of one migration, on its destination.

    Used on the event loop on which it was made. It fails once, at the first error on any
    connection: the source finds all of them closed then, and every wait here raises the error.
    Waits have no deadline of their own: bring ``asyncio.timeout``. Close the session before the
    machine's memory is freed, or run.
    """

    def __init__(
        self,
        link: BulkLink,
        regions: Sequence[PageView],
        *,
        content: Content | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        """``regions``: the machine's memory, writable, populated before for speed. ``content``:
        what the host holds already; it is asked in the first round only, until ``close``.

        Raises ``LocalProtocolError`` if it is not what the link says.
        """
        self.link = link.checked()
        self._regions = _checked_regions(link, regions)
        self._content = content
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, BulkConnection] = {}
        self._incoming: list[_Incoming] = []
        self._threads: list[threading.Thread] = []
        self._rounds: list[_RoundProgress] = []
        self._connections_ended = 0
        self._failure: GodwitError | None = None
        self._news = asyncio.Event()

    @property
    def failure(self) -> GodwitError | None:
        """What the session failed of, if it did."""
        return self._failure

    def admit(self, preamble: Preamble, sock: socket.socket) -> None:
        """Serve a connection whose token was found right, in a thread of its own; takes the socket.

        One that the link has no place for fails the session.
        """
        if self._failure is None and (fault := self._admission_fault(preamble)):
            self._fail(RemoteProtocolError(fault))
        if self._failure is not None:
            sock.close()
            return
        connection = BulkConnection(sock, stall_s=self._stall_s)
        incoming = _Incoming(
            self.link,
            preamble.connection,
            connection,
            self._regions,
            self._content,
            self._is_over_before,
        )
        self._incoming.append(incoming)
        thread = threading.Thread(
            target=self._serve,
            args=(incoming, connection),
            name=f"bulk-receive-{preamble.connection}",
            daemon=True,
        )
        self._connections[preamble.connection] = connection
        self._threads.append(thread)
        thread.start()
        self._tell()

    async def connected(self) -> None:
        """Wait until all connections are there. Raises the failure."""
        await self._until(lambda: len(self._connections) == self.link.connections)

    async def round_applied(self, round_number: int) -> RoundTotals:
        """Wait until every page of a round is in memory; any number of waits for any round.

        Returns the totals of all connections. Raises ``RemoteProtocolError`` if the source broke
        the protocol, ``CorruptError`` if bytes were altered, ``UnreachableError`` if it is gone or
        ended before that round, ``AbortedError`` if the session was closed.
        """
        await self._until(lambda: self._is_applied(round_number))
        return self._rounds[round_number - FIRST_ROUND].totals

    def seal(self, round_number: int) -> None:
        """That round, which is applied, is the last: memory does not change any more. It takes
        no system call: a stun waits for it.

        Raises ``RemoteProtocolError`` if anything of a later one has come, or what the session has
        failed of, but for a source that is gone: what it sent is there.
        """
        whole = [incoming.seal(round_number) for incoming in self._incoming]
        if isinstance(self._failure, (RemoteProtocolError, CorruptError, LocalProtocolError)):
            raise self._failure
        if not all(whole):
            raise RemoteProtocolError(f"more has come after round {round_number}, the last")

    def applied_digest(self) -> bytes:
        """Of all that was applied so far; empty if it is not digested."""
        applied = reduce(RoundTotals.plus, (each.totals for each in self._rounds), RoundTotals())
        return packed_digest(applied.digest) if self.link.digested else b""

    async def close(self) -> None:
        """Break off what is still being received, and wait until no thread writes memory any more.

        Idempotent. Raises ``DeadlineError`` after ``CLOSE_TIMEOUT_S``: the memory is in use then.
        """
        if self._connections_ended < self.link.connections:
            self._fail(AbortedError("this side closed the link"))
        await asyncio.to_thread(_join, self._threads)
        self._regions.clear()
        self._incoming.clear()

    def _is_over_before(self, round_number: int) -> bool:
        """Whether each connection has ended the rounds before it; asked by any thread."""
        return all(each.round_number >= round_number for each in self._incoming.copy())

    def _is_applied(self, round_number: int) -> bool:
        index = round_number - FIRST_ROUND
        return (
            index < len(self._rounds)
            and self._rounds[index].connections_ended == self.link.connections
        )

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            if self._failure is not None:
                raise self._failure
            if self._connections_ended == self.link.connections:
                raise UnreachableError(
                    f"the source ended the link after {len(self._rounds)} rounds"
                )
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _admission_fault(self, preamble: Preamble) -> str:
        if preamble.connections != self.link.connections:
            return f"the source opens {preamble.connections} connections, not the agreed number"
        if preamble.connection >= self.link.connections:
            return f"there is no bulk connection {preamble.connection}"
        if preamble.connection in self._connections:
            return f"bulk connection {preamble.connection} came twice"
        return ""

    def _serve(self, incoming: _Incoming, connection: BulkConnection) -> None:
        """The body of a connection's thread."""
        try:
            incoming.serve(lambda *ended: self._on_loop(self._round_ended, *ended))
        except GodwitError as error:
            connection.break_off()
            let_go(error)
            self._on_loop(self._fail, error)
        except Exception as error:  # a defect must fail the session too, and not leave it waiting
            connection.break_off()
            let_go(error)
            self._on_loop(self._fail, LocalProtocolError(f"receiving failed: {error!r}"))
        else:
            self._on_loop(self._connection_ended)
        finally:
            connection.close()

    def _on_loop(self, act: Callable[[Unpack[Ts]], None], *arguments: *Ts) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(act, *arguments)

    def _round_ended(self, round_number: int, totals: RoundTotals) -> None:
        index = round_number - FIRST_ROUND
        if index == len(self._rounds):
            self._rounds.append(_RoundProgress())
        progress = self._rounds[index]
        progress.connections_ended += 1
        progress.totals = progress.totals.plus(totals)
        self._tell()

    def _connection_ended(self) -> None:
        self._connections_ended += 1
        self._tell()

    def _fail(self, error: GodwitError) -> None:
        if self._failure is None:
            self._failure = error
            for connection in self._connections.values():
                connection.break_off()
            self._tell()


def _checked_regions(link: BulkLink, regions: Sequence[PageView]) -> list[PageView]:
    shapes = tuple(pages.shape for pages in regions)
    expected = tuple((pages, PAGE_BYTES) for pages in link.region_pages)
    in_place = all(pages.flags.writeable and pages.flags.c_contiguous for pages in regions)
    if shapes != expected or not in_place:
        raise LocalProtocolError(f"memory of shapes {shapes} is no place for regions {expected}")
    return list(regions)


def _join(threads: Sequence[threading.Thread]) -> None:
    deadline = time.monotonic() + CLOSE_TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            raise DeadlineError(f"{thread.name} is still receiving after {CLOSE_TIMEOUT_S} s")
