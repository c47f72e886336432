"""No Python work a page: what finds pages, and has some of them wait, does not count them. What
sends and receives them is in transfer/test_calls.py, too.
"""

import asyncio

import pytest
from writer_process import Compared, Kernel, WriterProcess, empty_like

from godwit.hypervisor.native.incoming import IncomingMemory
from godwit.hypervisor.native.outgoing import OutgoingMemory
from godwit.hypervisor.native.paths import MachineFolder
from godwit.hypervisor.native.tracking_lease import TrackingLease
from godwit.hypervisor.port import LinkTarget
from godwit.transfer.listener import LinkListener
from godwit_protocol.machine import PAGE_BYTES
from python_work import counted

PAGES = 16384
WRITTEN = PAGES // 2
ROUNDS = 4
WAIT_BYTES = WRITTEN * PAGE_BYTES // 4
SHARE_MAX = 0.5
"""Of the pages that are written before a round: no line may run so often, in all of the move."""
DEADLINE_S = 20.0
SESSION, TOKEN = b"session1", b"t" * 32


@pytest.fixture(scope="module")
def writer():
    process = WriterProcess()
    yield process
    process.close()


async def populated(_runs):
    """There is no VMM on this side."""


async def unused(_percent, _for_s):
    raise AssertionError("nobody asked for a slower guest")


@pytest.mark.parametrize("way", [Kernel, Compared])
async def test_no_line_runs_for_each_page_of_a_move(writer, tmp_path, way):
    memory = writer.allocate(PAGES)
    writer.do("store", 0, 0, PAGES)
    replica = empty_like(memory)
    with counted() as done:
        source = way(writer.process.pid, memory)
        lease = await TrackingLease.take(MachineFolder(tmp_path))
        leaves = getattr(source, "leaves", None)
        outgoing = OutgoingMemory(memory, source.tracker, lease, unused, leaves)
        incoming = IncomingMemory(replica, populated)
        listener = await LinkListener.open("127.0.0.1")
        listener.expect(SESSION, TOKEN, lambda reader, writer: writer.close())
        async with asyncio.timeout(DEADLINE_S):
            await incoming.populate(await outgoing.held())
            session = incoming.receive(SESSION, 2, digested=True)
            listener.admit_bulk(session)
            target = LinkTarget("127.0.0.1", listener.port, SESSION, TOKEN, 2, digested=True)
            await outgoing.connect(target)
            waited = []
            for number in range(1, ROUNDS):
                sent = await outgoing.send_round(number, wait_bytes_max=WAIT_BYTES)
                await session.round_applied(number)
                waited.append(sent.waiting_bytes)
                writer.do("comb", 0)
                await outgoing.dirty()
            await outgoing.send_round(ROUNDS, in_stun=True)
            await session.round_applied(ROUNDS)
            assert await outgoing.digests() == await incoming.digests()
        await outgoing.close()
        await incoming.close()
        await listener.close()
    assert any(waited) == (way is Kernel), "what holds the same as before is not found by digest"
    place, times = done.most
    assert times < SHARE_MAX * WRITTEN, place
