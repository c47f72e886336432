"""Dirty tracking: which pages were written since they were last sent.

``DirtyTracker`` is what a source needs, whatever finds the pages. ``WriteProtectTracker`` asks the
kernel, from outside the VMM. Knows memory and addresses; nothing of rounds, links or migrations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.machine import PAGE_BYTES

from ..port import VmmLostError
from .kernel import PagemapScanner
from .memory import NO_RUNS, MachineMemory, Region, Runs, runs_of

T = TypeVar("T")

BLOCK_PAGES: Final = 512
"""Memory is looked at in blocks of what one page-table page maps (2 MiB): a hole costs nothing."""


class DirtyTracker(Protocol):
    """Finds dirty pages; one ``Runs`` a region, in the memory's order. Not thread-safe.

    Every method raises ``VmmLostError`` when the VMM is dead.
    """

    def arm(self) -> list[Runs]:
        """Begin: from now on writes are tracked. Returns all pages that hold data: the first round.

        May be called again, to begin anew.
        """

    def scan(self) -> list[Runs]:
        """Pages written since ``arm`` or the last ``scan``; each is reported and reset atomically.

        A page that is written while the call runs is reported now or by the next call, never lost.
        """

    def look(self) -> list[Runs]:
        """Pages that a ``scan`` would report now. Resets nothing."""

    def peek(self) -> list[int]:
        """How many pages of each region that is."""

    def close(self) -> None:
        """Stop tracking. Idempotent; touches neither the memory nor the VMM."""


class WriteProtectTracker:
    """Dirty pages from the kernel's write-protect bits in the VMM's page table.

    Only blocks that hold data in the memfd are scanned. What the kernel says of a block that was
    never armed is "all of it", so such a block's report is cut down to the pages that hold data,
    looked up after the scan: a page that is a hole then was not written before. Relies on a machine
    giving no memory back while it lives.
    """

    def __init__(self, pid: int, memory: MachineMemory) -> None:
        """Track ``memory``, mapped by the VMM with process id ``pid`` at the regions' addresses."""
        try:
            self._scanner = PagemapScanner(pid)
        except OSError as error:
            raise VmmLostError(f"the page table of VMM {pid} cannot be read: {error}") from error
        self._pid = pid
        self._regions = [_RegionTracker(region, self._scanner) for region in memory.regions]

    def arm(self) -> list[Runs]:
        """Begin anew; see ``DirtyTracker``."""
        self._ask(_RegionTracker.reset)
        return [tracker.region.extents() for tracker in self._regions]

    def scan(self) -> list[Runs]:
        """Read and reset; see ``DirtyTracker``."""
        return self._ask(_RegionTracker.read_and_reset)

    def look(self) -> list[Runs]:
        """Read only; see ``DirtyTracker``."""
        return self._ask(_RegionTracker.read)

    def peek(self) -> list[int]:
        """Count only; see ``DirtyTracker``."""
        return [int(runs[:, 1].sum()) for runs in self.look()]

    def close(self) -> None:
        """Stop; see ``DirtyTracker``."""
        self._scanner.close()

    def _ask(self, question: Callable[[_RegionTracker], T]) -> list[T]:
        try:
            answers = [question(tracker) for tracker in self._regions]
            alive = self._scanner.tracks(self._regions[0].region.address)
        except OSError as error:
            raise VmmLostError(f"VMM {self._pid} cannot be scanned: {error}") from error
        if not alive:
            raise VmmLostError(f"VMM {self._pid} is dead: its memory cannot be scanned")
        return answers


class _RegionTracker:
    """One region's share: which of its blocks were ever armed."""

    def __init__(self, region: Region, scanner: PagemapScanner) -> None:
        self.region = region
        self._scanner = scanner
        self._armed = np.zeros(-(-region.page_count // BLOCK_PAGES), dtype=np.bool_)

    def reset(self) -> None:
        _, blocks = self._sweep(reset=True)
        self._armed |= blocks

    def read_and_reset(self) -> Runs:
        written, blocks = self._sweep(reset=True)
        really = self._without_holes(written, blocks)
        self._armed |= blocks
        return really

    def read(self) -> Runs:
        return self._without_holes(*self._sweep(reset=False))

    def _sweep(self, *, reset: bool) -> tuple[Runs, NDArray[np.bool_]]:
        """Scan the blocks that hold data now. Returns written pages and a mask of blocks."""
        blocks = self._blocks_with_data()
        found = [NO_RUNS]
        for start, count in self._runs_of_blocks(blocks):
            address = self.region.address + start * PAGE_BYTES
            found.append(self._scanner.written(address, count * PAGE_BYTES, reset=reset))
        written = np.concatenate(found)
        written[:, 1] -= written[:, 0]
        written[:, 0] -= self.region.address
        return written // PAGE_BYTES, blocks

    def _blocks_with_data(self) -> NDArray[np.bool_]:
        """A block that was armed had data, and still has: asking the memfd again would take longer
        than the scan, for it walks all pages that are there.
        """
        blocks = self._armed.copy()
        for start, count in self._runs_of_blocks(~self._armed):
            for first, pages in self.region.extents(start, start + count, BLOCK_PAGES).tolist():
                blocks[first // BLOCK_PAGES : -(-(first + pages) // BLOCK_PAGES)] = True
        return blocks

    def _without_holes(self, written: Runs, blocks: NDArray[np.bool_]) -> Runs:
        fresh = blocks & ~self._armed
        if not fresh.any():
            return written
        extents = [
            self.region.extents(start, start + count)
            for start, count in self._runs_of_blocks(fresh)
        ]
        trusted = runs_of(self._runs_of_blocks(blocks & self._armed))
        allowed = np.concatenate([trusted, *extents])
        return intersection(written, allowed[np.argsort(allowed[:, 0])])

    def _runs_of_blocks(self, mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)) * BLOCK_PAGES
        bounds = np.minimum(edges, self.region.page_count).reshape(-1, 2)
        return [(start, end - start) for start, end in bounds.tolist()]


def intersection(left: Runs, right: Runs) -> Runs:
    """The pages that are in both; each of the two is ascending and without overlaps."""
    left_ends, right_ends = left.sum(axis=1), right.sum(axis=1)
    first = np.searchsorted(right_ends, left[:, 0], side="right")
    last = np.searchsorted(right[:, 0], left_ends, side="left")
    partners = last - first
    of_left = np.repeat(np.arange(len(left)), partners)
    within = np.arange(len(of_left)) - np.repeat(np.cumsum(partners) - partners, partners)
    of_right = np.repeat(first, partners) + within
    starts = np.maximum(left[of_left, 0], right[of_right, 0])
    ends = np.minimum(left_ends[of_left], right_ends[of_right])
    return np.stack([starts, ends - starts], axis=1)
