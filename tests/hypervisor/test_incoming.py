"""An arriving machine's memory is populated by the VMM and by the host service at once."""

import asyncio
import threading

import pytest

from godwit.hypervisor.native import memory as native_memory
from godwit.hypervisor.native.incoming import IncomingMemory
from godwit.hypervisor.native.memory import MachineMemory, Region, runs_of
from godwit_protocol.errors import AbortedError, RefusedError, RemoteProtocolError
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

BATCHES, WAIT_S = 4, 10.0


class Told(Region):
    """A region that says what of it is populated here; each batch waits until it may be."""

    def prepare(self):
        self.order, self.begun, self.may_go = [], threading.Event(), threading.Event()
        return self

    def populate(self, runs, *, is_tracked):
        assert not is_tracked
        self.begun.set()
        assert self.may_go.wait(WAIT_S)
        super().populate(runs, is_tracked=is_tracked)
        self.order.append(int(runs[0, 0]))


@pytest.fixture
def region(monkeypatch):
    monkeypatch.setattr(native_memory, "BATCH_PAGES", 16)
    return Told.allocate(RegionSpec("ram", BATCHES * 16 * PAGE_BYTES)).prepare()


EXTENTS = (runs_of([(0, BATCHES * 16)]).tobytes(),)


async def test_the_service_begins_at_the_end_before_the_vmm_is_done(region):
    region.may_go.set()

    async def in_vmm(extents):
        assert extents[0].tolist() == [[0, BATCHES * 16]]
        assert await asyncio.to_thread(region.begun.wait, WAIT_S)

    incoming = IncomingMemory(MachineMemory([region]), in_vmm)
    await incoming.populate(EXTENTS)
    assert region.order == [48, 32, 16, 0]
    assert region.extents().tolist() == [[0, BATCHES * 16]]
    await incoming.close()


async def test_a_vmm_that_lacks_memory_ends_what_the_service_populates(region):
    async def in_vmm(_extents):
        assert await asyncio.to_thread(region.begun.wait, WAIT_S)
        asyncio.get_running_loop().call_soon(region.may_go.set)
        raise RefusedError("no memory")

    incoming = IncomingMemory(MachineMemory([region]), in_vmm)
    with pytest.raises(RefusedError, match="no memory"):
        await incoming.populate(EXTENTS)
    assert region.order == [48]
    await incoming.close()


async def test_closing_gives_up_what_is_being_populated(region):
    async def in_vmm(_extents):
        assert await asyncio.to_thread(region.begun.wait, WAIT_S)
        closing = asyncio.create_task(incoming.close())
        asyncio.get_running_loop().call_soon(region.may_go.set)
        await closing

    incoming = IncomingMemory(MachineMemory([region]), in_vmm)
    with pytest.raises(AbortedError):
        await incoming.populate(EXTENTS)
    assert region.order == [48]
    assert region.fd < 0


@pytest.mark.parametrize("runs", [[(0, 8), (4, 8)], [(0, 8), (0, 8)], [(8, 8), (0, 8)]])
async def test_extents_that_overlap_or_go_back_are_refused(region, runs):
    """A source that sent millions of them would have all be populated again and again."""

    async def in_vmm(_extents):
        raise AssertionError("nothing is to be populated")

    incoming = IncomingMemory(MachineMemory([region]), in_vmm)
    with pytest.raises(RemoteProtocolError, match="overlap"):
        await incoming.populate((runs_of(runs).tobytes(),))
    await incoming.close()
