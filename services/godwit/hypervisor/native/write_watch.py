"""A look at what a running machine writes, that no migration of it ever notices.

``port.WriteWatch``. It resets the write-protect bits once, holding the tracking lease, and from
then on only reads them. A migration that takes the lease meanwhile ends the watch, not the other
way round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from godwit_protocol.errors import ConflictError
from godwit_protocol.machine import PAGE_BYTES

from ..port import Look
from .dirty import DirtyTracker
from .memory import MachineMemory
from .own_thread import once
from .paths import MachineFolder
from .tracking_lease import TrackingLease, times_taken

T = TypeVar("T")


class NativeWriteWatch:
    """See ``port.WriteWatch``. Owns ``memory`` and ``tracker``."""

    def __init__(self, folder: MachineFolder, memory: MachineMemory, tracker: DirtyTracker) -> None:
        self._folder = folder
        self._memory = memory
        self._tracker = tracker
        self._taking = 0
        self._working: asyncio.Task[Any] | None = None

    async def begin(self) -> Look:
        """See ``port.WriteWatch``."""
        return await self._in_thread(self._begin)

    async def look(self) -> Look:
        """See ``port.WriteWatch``."""
        return await self._in_thread(self._look)

    async def close(self) -> None:
        """See ``port.WriteWatch``."""
        working, self._working = self._working, None
        if working is not None:
            await asyncio.wait({working})  # it works with what is about to be closed
        try:
            self._tracker.close()
        finally:
            # It frees the memory if the machine has ended meanwhile: gigabytes take their time.
            await asyncio.to_thread(once(self._memory.close))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._working = asyncio.create_task(asyncio.to_thread(once(work)))
        try:
            return await asyncio.shield(self._working)
        finally:
            if self._working.done():  # its error keeps this frame: nothing here may keep it
                self._working = None

    def _begin(self) -> Look:
        lease = TrackingLease.try_take(self._folder)
        if lease is None:
            raise ConflictError(f"machine {self._folder.path.name} is on its way out")
        self._taking = lease.number
        try:
            return self._measured(lambda: [int(r[:, 1].sum()) for r in self._tracker.arm()])
        finally:
            lease.release()

    def _look(self) -> Look:
        looked = self._measured(self._tracker.peek)
        if times_taken(self._folder) != self._taking:
            raise ConflictError(f"somebody else tracks machine {self._folder.path.name} by now")
        return looked

    def _measured(self, count_pages: Callable[[], list[int]]) -> Look:
        began_ns, used_ns = time.monotonic_ns(), time.thread_time_ns()
        pages = count_pages()
        cost_ns = time.thread_time_ns() - used_ns
        names = (region.name for region in self._memory.regions)
        return Look(
            at_ns=(began_ns + time.monotonic_ns()) // 2,
            bytes_by_region={
                name: PAGE_BYTES * count for name, count in zip(names, pages, strict=True)
            },
            cost_ns=cost_ns,
        )
