"""Dirty tracking without the kernel's help: memory is compared, by digest, with what was sent.

A ``dirty.DirtyTracker`` for kernels that have no PAGEMAP_SCAN. Each look reads all memory that
holds data, which the guest does not notice but the processor does, and which is part of the stun.
What is found is a leaf of 64 KiB. What makes it sound stands in ``transfer.sent_leaves``.
"""

from __future__ import annotations

import os
import select

import numpy as np

from godwit.transfer.sent_leaves import LEAF_PAGES, SentLeaves

from ..port import VmmLostError
from .dirty import intersection
from .memory import MachineMemory, Region, Runs, runs_of


class DigestTracker:
    """See ``dirty.DirtyTracker``. A leaf is dirty until what it holds was sent: ``scan`` resets
    nothing, sending does.
    """

    def __init__(self, pid: int, memory: MachineMemory, leaves: SentLeaves) -> None:
        """``leaves``: where whoever sends enters what goes out. ``pid``: the VMM's."""
        try:
            self._process = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise VmmLostError(f"VMM {pid} is dead") from error
        self._pid = pid
        self._regions = memory.regions
        self._leaves = leaves

    def arm(self) -> list[Runs]:
        """Begin anew; see ``DirtyTracker``."""
        self._leaves.clear()
        found = [region.extents() for region in self._regions]
        self._check_alive()
        return found

    def scan(self) -> list[Runs]:
        """Pages that hold data, of the leaves that differ from what was sent."""
        found = [self._differing(index, region) for index, region in enumerate(self._regions)]
        self._check_alive()
        return found

    def look(self) -> list[Runs]:
        """The same: see ``DirtyTracker``."""
        return self.scan()

    def peek(self) -> list[int]:
        """Count only; see ``DirtyTracker``. Takes as long as ``scan``."""
        return [int(runs[:, 1].sum()) for runs in self.look()]

    def close(self) -> None:
        """Stop; see ``DirtyTracker``."""
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _differing(self, index: int, region: Region) -> Runs:
        extents = region.extents()
        differs = self._leaves.differing(index, region.pages, extents)
        edges = np.flatnonzero(np.diff(differs, prepend=False, append=False)).reshape(-1, 2)
        leaves = runs_of([(start, end - start) for start, end in edges.tolist()])
        return intersection(leaves * LEAF_PAGES, extents)

    def _check_alive(self) -> None:
        """The memory of a dead VMM can still be read: ask for it itself."""
        look = select.poll()  # select() knows no descriptor beyond the first thousand
        look.register(self._process, select.POLLIN)
        if look.poll(0):
            raise VmmLostError(f"VMM {self._pid} is dead: its memory need not be looked at")
