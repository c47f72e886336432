"""A leaving machine's memory is mapped before its first round, and no hole of it is filled."""

import asyncio
import os
import threading

import pytest
from page_table import mapped_pages

from godwit.hypervisor.native.dirty import WriteProtectTracker
from godwit.hypervisor.native.incoming import IncomingMemory
from godwit.hypervisor.native.memory import MachineMemory
from godwit.hypervisor.native.outgoing import OutgoingMemory
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.native.tracking_lease import TrackingLease
from godwit.hypervisor.port import LinkTarget
from godwit_protocol.errors import UnreachableError
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

WAIT_S = 10.0
NAME, PAGES, FIRST, COUNT = "mapped-before", 2048, 700, 600


class SlowToClose(MachineMemory):
    """Memory whose closing takes until ``may_end`` is set."""

    def close(self):
        assert self.may_end.wait(WAIT_S)
        super().close()


async def unused(_percent, _for_s):
    raise AssertionError("nobody asked for a slower guest")


async def test_what_is_held_is_mapped_while_the_link_is_opened(tmp_path):
    memory = MachineMemory.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    os.pwrite(memory.regions[0].fd, bytes(COUNT * PAGE_BYTES), FIRST * PAGE_BYTES)
    lease = await TrackingLease.take(MachineFolder(tmp_path))
    outgoing = OutgoingMemory(memory, WriteProtectTracker(os.getpid(), memory), lease, unused)
    try:
        assert mapped_pages(NAME) == 0
        assert await outgoing.held()
        with pytest.raises(UnreachableError):  # nobody listens there
            await outgoing.connect(LinkTarget("127.0.0.1", 9, b"session1", bytes(32), 1))
        assert mapped_pages(NAME) == COUNT
        assert memory.regions[0].extents().tolist() == [[FIRST, COUNT]]
    finally:
        await outgoing.close()


async def test_what_is_given_back_does_not_hold_up_the_service(tmp_path):
    memory = SlowToClose.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    memory.may_end = threading.Event()
    lease = await TrackingLease.take(MachineFolder(tmp_path))
    outgoing = OutgoingMemory(memory, WriteProtectTracker(os.getpid(), memory), lease, unused)
    incoming = IncomingMemory(memory, unused)
    for each in (outgoing, incoming):
        memory.may_end.clear()
        closing = asyncio.create_task(each.close())
        asyncio.get_running_loop().call_soon(memory.may_end.set)
        await closing
    assert memory.regions[0].fd < 0
