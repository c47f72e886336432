"""A destination that takes nothing holds its source back: nothing is made that cannot go out."""

import asyncio
import socket
import tracemalloc

import numpy as np
import pytest
from direct_link import DEADLINE_S, SESSION, TOKEN, Memory, runs, work

from godwit.transfer.sender import BulkSender
from godwit_protocol.bulk import BulkLink
from godwit_protocol.compression import METHODS
from godwit_protocol.errors import UnreachableError
from godwit_protocol.machine import PAGE_BYTES

PAGES = 32768
CONNECTIONS = 2
HELD_BYTES_MAX = 12 << 20
"""Of a round of 64 or 128 MiB: some frames a connection, each of 2 MiB at most."""


class Narrow:
    """A cap that is never reached, and would have pages compressed."""

    bytes_per_second = 1_000_000

    def take(self, _byte_count):
        pass

    def lift(self):
        pass


@pytest.fixture(scope="module")
def memory():
    """Pages that compress to half."""
    filled = Memory(PAGES)
    filled.stamp(range(PAGES), 1)
    filled.pages[:, PAGE_BYTES // 2 :] = 0
    return filled


@pytest.mark.parametrize("methods", [(), METHODS], ids=["as they are", "compressed"])
@pytest.mark.parametrize("digested", [False, True], ids=["plain", "digested"])
@pytest.mark.parametrize("every", [1, 2], ids=["runs", "scattered"])
async def test_what_a_source_holds_is_bounded_while_its_destination_takes_nothing(
    memory, every, digested, methods
):
    link = BulkLink(SESSION, CONNECTIONS, (PAGES,), digested, methods)
    first = np.arange(0, PAGES, every)
    chosen = runs((0, PAGES)) if every == 1 else np.stack([first, np.ones_like(first)], 1)
    pacer = Narrow() if methods else None
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        sender = BulkSender.connect("127.0.0.1", port, link, TOKEN, pacer=pacer, stall_s=0.2)
        tracemalloc.start()
        try:
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(UnreachableError, match="moved no byte"):
                    await asyncio.to_thread(sender.send_round, 1, [work(0, memory, chosen)])
            _, held_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            sender.close()
    assert held_bytes < HELD_BYTES_MAX
