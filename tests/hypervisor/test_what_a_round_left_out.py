"""What a round did not send is told in bytes, and what it took in time."""

import os

import pytest

from godwit.hypervisor.native.digest_tracker import DigestTracker
from godwit.hypervisor.native.incoming import IncomingMemory
from godwit.hypervisor.native.memory import MachineMemory
from godwit.hypervisor.native.outgoing import OutgoingMemory
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.native.tracking_lease import TrackingLease
from godwit.hypervisor.port import LinkTarget
from godwit.transfer.listener import LinkListener
from godwit.transfer.sent_leaves import LEAF_BYTES, LEAF_PAGES, SentLeaves
from godwit_protocol.machine import PAGE_BYTES, RegionSpec

LEAVES = 64
SESSION, TOKEN = b"session1", bytes(32)
REGIONS = [RegionSpec(name, LEAVES * LEAF_BYTES) for name in ("ram", "vgpu0.framebuffer")]


async def unused(*_arguments):
    raise AssertionError("nobody asked for it")


@pytest.fixture
async def leaving(tmp_path):
    """A machine's memory, its way out, and a destination that takes what comes."""
    memory = MachineMemory.allocate(REGIONS)
    leaves = SentLeaves([region.page_count for region in memory.regions])
    tracker = DigestTracker(os.getpid(), memory, leaves)
    lease = await TrackingLease.take(MachineFolder(tmp_path))
    outgoing = OutgoingMemory(memory, tracker, lease, unused, leaves)
    incoming = IncomingMemory(MachineMemory.allocate(REGIONS), unused)
    listener = await LinkListener.open("127.0.0.1")
    listener.expect(SESSION, TOKEN, lambda reader, writer: writer.close())
    listener.admit_bulk(incoming.receive(SESSION, 1, digested=False))
    await outgoing.connect(LinkTarget("127.0.0.1", listener.port, SESSION, TOKEN, 1))
    yield memory, outgoing
    await outgoing.close()
    await incoming.close()
    await listener.close()


async def test_the_first_round_tells_what_was_never_there(leaving):
    memory, outgoing = leaving
    pages = memory.regions[0].pages
    pages[3] = 1
    pages[LEAF_PAGES : 2 * LEAF_PAGES] = 1
    first = await outgoing.send_round(1)
    assert first.pages == 1 + LEAF_PAGES
    assert first.hole_bytes == 2 * LEAVES * LEAF_BYTES - first.pages * PAGE_BYTES
    assert (await outgoing.send_round(2)).hole_bytes == 0


async def test_what_telling_the_hot_leaves_took_is_told(leaving):
    memory, outgoing = leaving
    pages = memory.regions[0].pages
    told = []
    for number in (1, 2, 3):
        pages[:LEAF_PAGES] = number
        told.append(await outgoing.send_round(number, wait_bytes_max=LEAF_BYTES))
        left = await outgoing.dirty()
        assert 0 < left.waiting_ns <= left.look_ns
    assert [sent.waiting_bytes for sent in told] == [0, 0, LEAF_BYTES]
    assert told[0].waiting_ns == 0
    assert all(0 < sent.waiting_ns <= sent.scan_ns for sent in told[1:])
