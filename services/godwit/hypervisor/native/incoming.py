"""A native machine's memory on its way in: the gated VMM's regions and the data plane's far end.

``port.Incoming``. The pages that the source holds are populated in the VMM, where the guest will
touch them, and here, where they arrive. Both do it at once and begin at opposite ends: each page is
made by whoever comes first, and the other only maps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import numpy as np

from godwit.transfer.port import Content
from godwit.transfer.receiver import IncomingSession
from godwit_protocol.bulk import BulkLink
from godwit_protocol.compression import Compression
from godwit_protocol.errors import AbortedError, RemoteProtocolError

from .memory import MachineMemory, Runs, batches
from .outgoing import region_digests
from .own_thread import OwnThread

PopulateVmm: TypeAlias = Callable[[Sequence[Runs]], Awaitable[None]]
"""Populates the VMM's own mapping, one ``Runs`` a region."""


class IncomingMemory:
    """See ``port.Incoming``. Owns ``memory``."""

    def __init__(self, memory: MachineMemory, populate_vmm: PopulateVmm) -> None:
        self._memory = memory
        self._populate_vmm = populate_vmm
        self._session: IncomingSession | None = None
        self._has_given_up = False
        """Whether nothing more is to be populated."""
        self._thread = OwnThread("incoming")
        self._in_use = asyncio.Lock()
        """Held while the thread works with the memory; ``close`` waits for it."""

    async def populate(self, extents: tuple[bytes, ...]) -> None:
        """See ``port.Incoming``. Raises ``RemoteProtocolError`` for extents outside the regions,
        ``AbortedError`` after ``close``.
        """
        runs = [
            _checked_runs(data, region.page_count)
            for data, region in zip(extents, self._memory.regions, strict=True)
        ]
        here = asyncio.create_task(self._mapped_here(runs))
        try:
            await self._populate_vmm(runs)
            await asyncio.shield(here)
        finally:
            self._has_given_up |= not here.done()
            await asyncio.gather(here, return_exceptions=True)

    def receive(
        self,
        session: bytes,
        connections: int,
        *,
        digested: bool,
        compressions: tuple[Compression, ...] = (),
        content: Content | None = None,
    ) -> IncomingSession:
        """See ``port.Incoming``."""
        pages = tuple(region.page_count for region in self._memory.regions)
        link = BulkLink(session, connections, pages, digested, compressions)
        memory = [region.pages for region in self._memory.regions]
        self._session = IncomingSession(link, memory, content=content)
        return self._session

    async def digests(self) -> dict[str, bytes]:
        """See ``port.Incoming``."""
        async with self._in_use:
            return await self._thread.run(region_digests, self._memory)

    async def close(self) -> None:
        """See ``port.Incoming``."""
        self._has_given_up = True
        if self._session is not None:
            await self._session.close()
            self._session = None
        async with self._in_use:
            await self._thread.end(self._memory.close)

    async def _mapped_here(self, extents: list[Runs]) -> None:
        async with self._in_use:
            await self._thread.run(self._populate_here, extents)

    def _populate_here(self, extents: list[Runs]) -> None:
        """From the end, as the VMM does from the beginning."""
        parts = zip(self._memory.regions, extents, strict=True)
        for region, runs in reversed(list(parts)):
            for batch in reversed(batches(runs)):
                if self._has_given_up:
                    raise AbortedError("populating was given up")
                region.populate(batch, is_tracked=False)


def _checked_runs(data: bytes, page_count: int) -> Runs:
    if len(data) % 16:
        raise RemoteProtocolError(f"extents of {len(data)} bytes are no pairs of int64")
    runs = np.frombuffer(data, "<i8").reshape(-1, 2).astype(np.int64)
    starts, counts = runs[:, 0], runs[:, 1]
    if np.any(starts < 0) or np.any(counts < 1) or np.any(starts > page_count - counts):
        raise RemoteProtocolError(f"an extent lies outside its region of {page_count} pages")
    if np.any(starts[1:] < starts[:-1] + counts[:-1]):
        raise RemoteProtocolError("extents overlap, or do not ascend")
    return runs
