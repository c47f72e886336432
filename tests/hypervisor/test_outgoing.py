"""A leaving machine's memory is mapped before its first round, and no hole of it is filled."""

import os
import re
from pathlib import Path

import pytest

from godwit.hypervisor.native.dirty import WriteProtectTracker
from godwit.hypervisor.native.memory import MachineMemory
from godwit.hypervisor.native.outgoing import OutgoingMemory
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.native.tracking_lease import TrackingLease
from godwit.hypervisor.port import LinkTarget
from godwit_protocol.errors import UnreachableError
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

NAME, PAGES, FIRST, COUNT = "mapped-before", 2048, 700, 600


def mapped_pages():
    """Pages of the region in this process's page table."""
    smaps = Path("/proc/self/smaps").read_text()
    found = re.search(rf"/memfd:godwit-{NAME} .*?\nRss: +(\d+) kB", smaps, re.DOTALL)
    return int(found[1]) * 1024 // PAGE_BYTES


async def unused(_percent, _for_s):
    raise AssertionError("nobody asked for a slower guest")


async def test_what_is_held_is_mapped_while_the_link_is_opened(tmp_path):
    memory = MachineMemory.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    os.pwrite(memory.regions[0].fd, bytes(COUNT * PAGE_BYTES), FIRST * PAGE_BYTES)
    lease = await TrackingLease.take(MachineFolder(tmp_path))
    outgoing = OutgoingMemory(memory, WriteProtectTracker(os.getpid(), memory), lease, unused)
    try:
        assert mapped_pages() == 0
        assert await outgoing.held()
        with pytest.raises(UnreachableError):  # nobody listens there
            await outgoing.connect(LinkTarget("127.0.0.1", 9, b"session1", bytes(32), 1))
        assert mapped_pages() == COUNT
        assert memory.regions[0].extents().tolist() == [[FIRST, COUNT]]
    finally:
        await outgoing.close()
