"""A leaving machine's memory is mapped before its first round, and no hole of it is filled; what
blocks is done in a thread of its own.
"""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from native_host import machine_spec
from page_table import mapped_pages

from godwit.hypervisor.native import incoming as native_incoming
from godwit.hypervisor.native import outgoing as native_outgoing
from godwit.hypervisor.native.dirty import WriteProtectTracker
from godwit.hypervisor.native.driver import NativeVmm
from godwit.hypervisor.native.incoming import IncomingMemory
from godwit.hypervisor.native.memory import MachineMemory
from godwit.hypervisor.native.outgoing import OutgoingMemory
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.native.tracking_lease import TrackingLease
from godwit.hypervisor.native.write_watch import NativeWriteWatch
from godwit.hypervisor.port import LinkTarget
from godwit.runtime.choices import DirtyTracking
from godwit_protocol.errors import AbortedError, UnreachableError
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

WAIT_S = 10.0
NAME, PAGES, FIRST, COUNT = "mapped-before", 2048, 700, 600


class SlowToClose(MachineMemory):
    """Memory whose closing takes until ``may_end`` is set."""

    def close(self):
        assert self.may_end.wait(WAIT_S)
        super().close()


class Kept(MachineMemory):
    """Memory of which it is told when it was looked at and closed, once ``may_go`` is set."""

    def prepare(self):
        self.told, self.begun, self.may_go = [], threading.Event(), threading.Event()
        return self

    def digests(self):
        self.begun.set()
        assert self.may_go.wait(WAIT_S)
        self.told.append("looked at")
        return super().digests()

    def close(self):
        self.told.append("closed")
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


class CannotClose(WriteProtectTracker):
    def close(self):
        super().close()
        raise OSError("an input/output error")


async def test_the_lease_is_let_go_of_whatever_else_cannot_be(tmp_path):
    memory = Kept.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)]).prepare()
    lease = await TrackingLease.take(MachineFolder(tmp_path))
    outgoing = OutgoingMemory(memory, CannotClose(os.getpid(), memory), lease, unused)
    with pytest.raises(OSError, match="input/output"):
        await outgoing.close()
    assert memory.told == ["closed"]
    again = TrackingLease.try_take(MachineFolder(tmp_path))
    assert again is not None
    again.release()


@pytest.mark.parametrize("tracking", [DirtyTracking.PAGEMAP, DirtyTracking.DIGEST])
async def test_without_a_thread_nothing_of_the_machine_is_kept(host, monkeypatch, tracking):
    """Neither on its way out nor in."""
    await host.hypervisor.create(machine_spec())
    vmm = NativeVmm(MachineFolder.of(host.directory, "m"), tracking)
    await vmm.status()

    def refused(_name):
        raise RuntimeError("can't start new thread")

    for module in (native_outgoing, native_incoming):
        monkeypatch.setattr(module, "OwnThread", refused)
    before = open_files()
    for prepare in (vmm.outgoing, vmm.incoming):
        with pytest.raises(RuntimeError, match="new thread"):
            await prepare()
        assert open_files() == before
    vmm.close()


def open_files():
    return sorted(Path("/proc/self/fd").iterdir())


async def test_what_is_given_back_does_not_hold_up_the_service(tmp_path):
    memory = SlowToClose.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    memory.may_end = threading.Event()
    lease = await TrackingLease.take(MachineFolder(tmp_path))
    outgoing = OutgoingMemory(memory, WriteProtectTracker(os.getpid(), memory), lease, unused)
    incoming = IncomingMemory(memory, unused)
    tracker = WriteProtectTracker(os.getpid(), memory)
    watch = NativeWriteWatch(MachineFolder(tmp_path), memory, tracker)
    for each in (outgoing, incoming, watch):
        memory.may_end.clear()
        closing = asyncio.create_task(each.close())
        asyncio.get_running_loop().call_soon(memory.may_end.set)
        await closing
    assert memory.regions[0].fd < 0


def leaving(folder, memory):
    lease = TrackingLease.try_take(MachineFolder(folder))
    return OutgoingMemory(memory, WriteProtectTracker(os.getpid(), memory), lease, unused)


@asynccontextmanager
async def no_thread_left_in_the_pool():
    """As when the rounds of other machines had taken all that the event loop has."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        pool.submit(over.wait, WAIT_S)
        try:
            async with asyncio.timeout(WAIT_S / 2):
                yield
        finally:
            over.set()


async def test_no_machine_waits_for_the_rounds_of_others(tmp_path):
    async with no_thread_left_in_the_pool():
        memory = MachineMemory.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
        outgoing = leaving(tmp_path, memory)
        assert await outgoing.held() == (b"",)
        assert (await outgoing.dirty()).total_bytes == 0
        assert await outgoing.digests()
        await outgoing.close()
        incoming = IncomingMemory(memory, unused)
        await incoming.digests()
        await incoming.close()


async def test_what_a_look_takes_is_told_for_the_stun_has_to_look_too(tmp_path):
    memory = MachineMemory.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    outgoing = leaving(tmp_path, memory)
    assert (await outgoing.dirty()).look_ns > 0
    await outgoing.close()


async def test_the_thread_is_there_before_it_is_needed_and_ends_with_close(tmp_path):
    before = set(threading.enumerate())
    memory = MachineMemory.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    both = leaving(tmp_path, memory), IncomingMemory(memory, unused)
    threads = set(threading.enumerate()) - before
    assert len(threads) == len(both)
    for each in both:
        await each.digests()
    assert set(threading.enumerate()) - before == threads
    for each in both:
        await each.close()
        await each.close()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    for each in both:
        with pytest.raises(AbortedError):
            await each.digests()


@pytest.mark.parametrize("side", [leaving, lambda _, memory: IncomingMemory(memory, unused)])
async def test_memory_is_closed_after_the_thread_of_who_was_cancelled(tmp_path, side):
    memory = Kept.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)]).prepare()
    each = side(tmp_path, memory)
    looking = asyncio.create_task(each.digests())
    await asyncio.to_thread(memory.begun.wait, WAIT_S)
    looking.cancel()
    await asyncio.wait({looking})
    closing = asyncio.create_task(each.close())
    asyncio.get_running_loop().call_soon(memory.may_go.set)
    await closing
    assert memory.told == ["looked at", "closed"]


async def test_what_is_closed_by_who_is_cancelled_is_closed_all_the_same(tmp_path):
    memory = SlowToClose.allocate([RegionSpec(NAME, PAGES * PAGE_BYTES)])
    memory.may_end = threading.Event()
    outgoing = leaving(tmp_path, memory)
    closing = asyncio.create_task(outgoing.close())
    asyncio.get_running_loop().call_soon(closing.cancel)
    await asyncio.wait({closing})
    assert closing.cancelled()
    memory.may_end.set()
    await outgoing.close()
    assert memory.regions[0].fd < 0
