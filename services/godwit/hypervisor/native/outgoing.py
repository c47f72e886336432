"""A native machine's memory on its way out: dirty tracking and the data plane put together.

``port.Outgoing``. Blocking work runs in a thread of its own; what a round means is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from godwit.transfer.outgoing import RegionWork
from godwit.transfer.sender import BulkSender
from godwit.transfer.sent_leaves import SentLeaves
from godwit_protocol.bulk import BulkLink
from godwit_protocol.errors import AbortedError, GodwitError, LocalProtocolError
from godwit_protocol.machine import PAGE_BYTES

from ..port import DirtyPages, LinkTarget, SentPages
from .dirty import DirtyTracker
from .memory import MachineMemory, Runs, batches
from .own_thread import OwnThread
from .tracking_lease import TrackingLease
from .waiting import WaitingPages

SLOW_LEASE_S: Final = 3.0
"""A guest is slowed for so long at a time: if this process dies, it is soon its old self."""
SLOW_RENEWALS: Final = 3
"""In each lease."""
EXTENT_GRAIN_PAGES: Final = 512
"""Extents are told in whole blocks of 2 MiB: a machine of any size has a bounded number of them."""

Slow = Callable[[int, float], Awaitable[None]]
"""Take so many percent of the guest's time from it, for so many seconds at most."""


class _Found(NamedTuple):
    """What a round is to send, and what not; ``waiting_ns``: what choosing among them took."""

    to_send: list[Runs]
    waiting_bytes: int = 0
    waiting_ns: int = 0
    hole_bytes: int = 0


class OutgoingMemory:
    """See ``port.Outgoing``. Owns all that it is given; the lease is held until ``close``."""

    def __init__(
        self,
        memory: MachineMemory,
        tracker: DirtyTracker,
        lease: TrackingLease,
        slow: Slow,
        leaves: SentLeaves | None = None,
    ) -> None:
        """``leaves``: what ``tracker`` compares the memory with, if it is one that does."""
        self._memory = memory
        self._tracker = tracker
        self._lease = lease
        self._slow = slow
        self._leaves = leaves
        self._slowing: asyncio.Task[None] | None = None
        self._sender: BulkSender | None = None
        self._mapping: asyncio.Task[None] | None = None
        """Of the memory, until the link is open."""
        self._aborted = False
        self._armed = False
        self._round_bytes = 0
        self._waiting = WaitingPages([region.page_count for region in memory.regions])
        self._thread = OwnThread("outgoing")
        self._in_use = asyncio.Lock()
        """Held while the thread works with memory or connections; ``close`` waits for it."""

    async def held(self) -> tuple[bytes, ...]:
        """See ``port.Outgoing``."""
        async with self._in_use:
            extents = await self._thread.run(self._extents)
        self._mapping = asyncio.create_task(self._mapped())
        return tuple(runs.astype("<i8").tobytes() for runs in extents)

    async def connect(self, target: LinkTarget) -> None:
        """See ``port.Outgoing``."""
        pages = tuple(region.page_count for region in self._memory.regions)
        link = BulkLink(
            target.session, target.connections, pages, target.digested, target.compressions
        )
        if self._mapping is not None:
            await asyncio.shield(self._mapping)
        async with self._in_use:
            await self._thread.run(self._connect, target, link)
        if self._aborted:
            self.abort()

    async def slow(self, percent: int) -> None:
        """See ``port.Outgoing``."""
        self._check_not_aborted()
        was_slowed = await self._stop_slowing()
        if percent or was_slowed:
            await self._slow(percent, SLOW_LEASE_S)
        if percent:
            self._slowing = asyncio.create_task(self._keep_slow(percent))

    async def send_round(
        self, round_number: int, *, wait_bytes_max: int = 0, in_stun: bool = False
    ) -> SentPages:
        """See ``port.Outgoing``."""
        async with self._in_use:
            self._check_not_aborted()
            return await self._thread.run(self._send_round, round_number, wait_bytes_max, in_stun)

    async def dirty(self) -> DirtyPages:
        """See ``port.Outgoing``."""
        async with self._in_use:
            self._check_not_aborted()
            return await self._thread.run(self._dirty)

    async def digests(self) -> dict[str, bytes]:
        """See ``port.Outgoing``."""
        async with self._in_use:
            self._check_not_aborted()
            return await self._thread.run(region_digests, self._memory)

    def sent_digest(self) -> bytes:
        """See ``port.Outgoing``."""
        return self._sender.sent_digest() if self._sender else b""

    def round_progress(self) -> tuple[int, int]:
        """See ``port.Outgoing``."""
        return (self._sender.progress() if self._sender else 0), self._round_bytes

    def abort(self) -> None:
        """See ``port.Outgoing``."""
        self._aborted = True
        if self._sender is not None:
            self._sender.abort()

    async def close(self) -> None:
        """See ``port.Outgoing``."""
        self.abort()
        if await self._stop_slowing():
            with suppress(GodwitError):  # then it ends with its lease
                await self._slow(0, SLOW_LEASE_S)
        async with self._in_use:
            await self._thread.end(self._let_go)

    def _let_go(self) -> None:
        """Of each, whatever another's end comes to: a lease that stays held is held for ever."""
        with ExitStack() as owned:
            owned.callback(self._memory.close)
            owned.callback(self._lease.release)
            owned.callback(self._tracker.close)
            if self._sender is not None:
                owned.callback(self._sender.close)

    def _extents(self) -> list[Runs]:
        return [region.extents(grain=EXTENT_GRAIN_PAGES) for region in self._memory.regions]

    async def _mapped(self) -> None:
        """Map here what is there: else each page is, at its first read, in the first round. The
        destination populates its own meanwhile.
        """
        async with self._in_use:
            if not self._aborted:
                await self._thread.run(self._map_held)

    def _connect(self, target: LinkTarget, link: BulkLink) -> None:
        """Also one whose caller was cancelled meanwhile is there to be closed."""
        self._sender = BulkSender.connect(
            target.address,
            target.port,
            link,
            target.token,
            pacer=target.pace,
            omit_zeros=target.omit_zeros,
            omit_rewritten=target.omit_rewritten,
            offer_content=target.offer_content,
            leaves=self._leaves,
            spread=target.spread,
        )

    def _map_held(self) -> None:
        for region in self._memory.regions:
            for batch in [] if self._aborted else batches(region.extents()):
                if self._aborted:
                    return
                region.map_held(batch)

    async def _keep_slow(self, percent: int) -> None:
        while True:
            await asyncio.sleep(SLOW_LEASE_S / SLOW_RENEWALS)
            with suppress(GodwitError):  # a VMM that is gone needs no slowing
                await self._slow(percent, SLOW_LEASE_S)

    async def _stop_slowing(self) -> bool:
        """Ask for it no more. Whether it was asked for."""
        slowing, self._slowing = self._slowing, None
        if slowing is not None:
            slowing.cancel()
            await asyncio.wait({slowing})
        return slowing is not None

    def _check_not_aborted(self) -> None:
        if self._aborted:
            raise AbortedError("sending was aborted")

    def _dirty(self) -> DirtyPages:
        started_ns = time.monotonic_ns()
        looked = self._tracker.look()
        looked_ns = time.monotonic_ns()
        total_bytes, hot_bytes = self._waiting.dirty(looked)
        ended_ns = time.monotonic_ns()
        return DirtyPages(total_bytes, hot_bytes, ended_ns - started_ns, ended_ns - looked_ns)

    def _find(self, wait_bytes_max: int) -> _Found:
        if not self._armed:
            self._armed = True
            return self._all_held(self._tracker.arm())
        found = self._tracker.scan()
        scanned_ns = time.monotonic_ns()
        to_send, waiting_bytes = self._waiting.part(found, wait_bytes_max)
        return _Found(to_send, waiting_bytes, time.monotonic_ns() - scanned_ns)

    def _all_held(self, found: list[Runs]) -> _Found:
        pages = sum(region.page_count for region in self._memory.regions)
        held_pages = sum(int(runs[:, 1].sum()) for runs in found)
        return _Found(found, hole_bytes=PAGE_BYTES * (pages - held_pages))

    def _send_round(self, round_number: int, wait_bytes_max: int, in_stun: bool) -> SentPages:
        if self._sender is None:
            raise LocalProtocolError("a round was to be sent before the link was open")
        started_ns = time.monotonic_ns()
        found = self._find(wait_bytes_max)
        scan_ns = time.monotonic_ns() - started_ns
        by_region = {
            region.name: PAGE_BYTES * int(runs[:, 1].sum())
            for region, runs in zip(self._memory.regions, found.to_send, strict=True)
        }
        self._round_bytes = sum(by_region.values())
        sent = self._sender.send_round(round_number, self._work(found.to_send), in_stun=in_stun)
        return SentPages(
            pages=sent.pages,
            sent_bytes=sent.sent_bytes,
            wire_bytes=sent.wire_bytes,
            scan_ns=scan_ns,
            bytes_by_region=by_region,
            digest_ns=sent.digest_ns,
            zero_bytes=sent.zero_bytes,
            zero_ns=sent.zero_ns,
            rewritten_bytes=sent.rewritten_bytes,
            rewritten_ns=sent.rewritten_ns,
            looked_bytes=sent.looked_bytes,
            content_bytes=sent.content_bytes,
            content_ns=sent.content_ns,
            compression=sent.compression,
            compression_bytes=sent.compression_bytes,
            compression_ns=sent.compression_ns,
            link_bytes_per_second=sent.link_bytes_per_second,
            connections=sent.connections,
            waiting_bytes=found.waiting_bytes,
            waiting_ns=found.waiting_ns,
            hole_bytes=found.hole_bytes,
        )

    def _work(self, found: list[Runs]) -> list[RegionWork]:
        return [
            RegionWork(index, region.pages, runs)
            for index, (region, runs) in enumerate(zip(self._memory.regions, found, strict=True))
            if len(runs)
        ]


def region_digests(memory: MachineMemory) -> dict[str, bytes]:
    """By region: SHA-256 of its contents."""
    names = [region.name for region in memory.regions]
    return dict(zip(names, memory.digests(), strict=True))
