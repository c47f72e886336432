"""Two hosts' memory and a real link between them, over loopback sockets."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from godwit.transfer.listener import LinkListener
from godwit.transfer.outgoing import Pacer, RegionWork
from godwit.transfer.partition import NO_RUNS, PageView, Runs
from godwit.transfer.port import Content
from godwit.transfer.receiver import IncomingSession
from godwit.transfer.sender import BulkSender
from godwit.transfer.sent_leaves import SentLeaves
from godwit_protocol.bulk import BulkLink, RoundTotals
from godwit_protocol.compression import Compression
from godwit_protocol.machine import PAGE_BYTES

SESSION = b"session1"
TOKEN = b"t" * 32
DEADLINE_S = 10.0


class Memory:
    """One host's copy of one region."""

    def __init__(self, page_count: int) -> None:
        self.fd = os.memfd_create("region")
        os.ftruncate(self.fd, page_count * PAGE_BYTES)
        mapping = mmap.mmap(self.fd, page_count * PAGE_BYTES)
        self.pages: PageView = np.frombuffer(mapping, np.uint8).reshape(-1, PAGE_BYTES)

    def __del__(self) -> None:
        os.close(self.fd)

    def stamp(self, page_numbers: object, seed: int) -> None:
        """Fill pages with bytes that no other page and seed have."""
        numbers = np.asarray(page_numbers, dtype=np.int64)
        random = np.random.default_rng(seed)
        self.pages[numbers] = random.integers(0, 256, (len(numbers), PAGE_BYTES), np.uint8)

    @property
    def resident_bytes(self) -> int:
        return os.fstat(self.fd).st_blocks * 512


def runs(*extents: tuple[int, int]) -> Runs:
    return np.array(extents, dtype=np.int64).reshape(-1, 2)


def runs_of_pages(page_numbers: Sequence[int]) -> Runs:
    """The maximal runs of a sorted set of pages."""
    numbers = np.asarray(page_numbers, dtype=np.int64)
    if not len(numbers):
        return NO_RUNS
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    first = numbers[np.concatenate(([0], breaks))]
    count = np.diff(np.concatenate((np.concatenate(([0], breaks)), [len(numbers)])))
    return np.column_stack((first, count))


def work(region: int, memory: Memory, to_send: Runs, zero_runs: Runs = NO_RUNS) -> RegionWork:
    return RegionWork(region, memory.pages, to_send, zero_runs)


@dataclass
class Direct:
    """A link that stands: the source's and the destination's end of it."""

    link: BulkLink
    listener: LinkListener
    session: IncomingSession
    sender: BulkSender
    there: list[Memory]
    here: list[Memory] = field(default_factory=list)

    async def move(self, round_number: int, *round_work: RegionWork) -> RoundTotals:
        """Send a round and wait until it is applied."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.to_thread(self.sender.send_round, round_number, round_work)
            return await self.session.round_applied(round_number)


@asynccontextmanager
async def direct(
    connections: int,
    *region_pages: int,
    pacer: Pacer | None = None,
    stall_s: float = DEADLINE_S,
    digested: bool = True,
    omit_zeros: bool = True,
    omit_rewritten: bool = True,
    content: Content | None = None,
    offer_content: bool = True,
    leaves: SentLeaves | None = None,
    compressions: tuple[Compression, ...] = (),
    spread: int = 0,
    via: Callable[[int], int] = lambda port: port,
) -> AsyncIterator[Direct]:
    """``via``: given the destination's port, the one that the source is to connect to."""
    link = BulkLink(SESSION, connections, region_pages, digested, compressions)
    here, there = [[Memory(pages) for pages in region_pages] for _ in range(2)]
    listener = await LinkListener.open("127.0.0.1")
    memory = [memory.pages for memory in there]
    session = IncomingSession(link, memory, content=content, stall_s=stall_s)
    listener.expect(SESSION, TOKEN, lambda reader, writer: writer.close())
    listener.admit_bulk(session)
    sender = await asyncio.to_thread(
        BulkSender.connect,
        "127.0.0.1",
        via(listener.port),
        link,
        TOKEN,
        pacer=pacer,
        omit_zeros=omit_zeros,
        omit_rewritten=omit_rewritten,
        offer_content=offer_content and content is not None,
        leaves=leaves,
        spread=spread,
        stall_s=stall_s,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            await session.connected()
        yield Direct(link, listener, session, sender, there, here)
    finally:
        await asyncio.to_thread(sender.close)
        await session.close()
        await listener.close()
