"""What breaks, is damaged or does not belong is found, typed, on both sides, and in time."""

import asyncio
import contextlib
import gc
import socket
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from direct_link import DEADLINE_S, SESSION, TOKEN, Memory, direct, runs, work

from godwit.transfer import connection, receiver
from godwit.transfer.connection import ConnectionLostError, open_control
from godwit.transfer.listener import LinkListener
from godwit.transfer.receiver import IncomingSession
from godwit.transfer.sender import BulkSender
from godwit_protocol.bulk import CHUNK_PAGES, BulkLink, BulkWriter
from godwit_protocol.errors import (
    AbortedError,
    LocalProtocolError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.framing import FrameKind, Preamble, encode_preamble
from godwit_protocol.machine import PAGE_BYTES

LINK = BulkLink(SESSION, 1, (1024,))
LINK_64M = BulkLink(SESSION, 1, (16384,))


class Gate:
    """A pacer that lets some bytes through, says so, and then waits until it is opened."""

    bytes_per_second = 0

    def __init__(self, byte_count: int) -> None:
        self._left = byte_count
        self.reached = threading.Event()
        self.opened = threading.Event()

    def take(self, byte_count: int) -> None:
        self._left -= byte_count
        if self._left < 0:
            self.reached.set()
            assert self.opened.wait(DEADLINE_S)

    def lift(self) -> None:
        self.opened.set()


def mapped_regions() -> int:
    """How many this process has mapped."""
    return sum("memfd:region" in line for line in Path("/proc/self/maps").read_text().splitlines())


class RawSource:
    """A source that sends whatever a test wants over one bulk connection."""

    def __init__(self) -> None:
        self.memory = Memory(1024)
        self.writer = BulkWriter(LINK, 0)

    async def __aenter__(self) -> "RawSource":
        self.listener = await LinkListener.open("127.0.0.1")
        self.session = IncomingSession(LINK, [self.memory.pages], stall_s=0.2)
        self.listener.expect(SESSION, TOKEN, lambda reader, writer: writer.close())
        self.listener.admit_bulk(self.session)
        self.sock = socket.create_connection(("127.0.0.1", self.listener.port), DEADLINE_S)
        self.sock.sendall(self.writer.preamble(TOKEN))
        async with asyncio.timeout(DEADLINE_S):
            await self.session.connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()
        await self.session.close()
        await self.listener.close()

    async def failure(self) -> Exception:
        """What the session fails of."""
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises((RemoteProtocolError, UnreachableError)) as failed:
                await self.session.round_applied(99)
        assert self.session.failure is failed.value
        return failed.value

    async def failure_of_a_wait(self) -> Exception:
        """What a wait for another round fails of."""
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(UnreachableError) as failed:
                await self.session.round_applied(99)
        return failed.value

    async def is_closed(self) -> bool:
        """Whether the destination closed the connection."""
        try:
            return await asyncio.to_thread(self.sock.recv, 1) == b""
        except ConnectionResetError:
            return True


def page_bytes(count: int) -> bytes:
    return b"\xaa" * (count * 4096)


async def test_a_doubled_frame_is_refused_and_its_pages_are_not_written():
    async with RawSource() as source:
        frame = source.writer.run(0, 3, 1) + page_bytes(1)
        source.sock.sendall(frame + frame)
        failure = await source.failure()
        assert isinstance(failure, RemoteProtocolError)
        assert "lost or doubled" in str(failure)
        assert await source.is_closed()


async def test_a_lost_frame_is_refused():
    async with RawSource() as source:
        source.writer.zero(0, 3, 1)
        source.sock.sendall(source.writer.round_end())
        assert "lost or doubled" in str(await source.failure())


async def test_a_frame_of_another_session_is_refused():
    async with RawSource() as source:
        other = BulkWriter(BulkLink(b"session2", 1, (1024,)), 0)
        source.sock.sendall(other.run(0, 3, 1) + page_bytes(1))
        failure = await source.failure()
        assert isinstance(failure, RemoteProtocolError)
        assert "another migration" in str(failure)
        assert not source.memory.pages.any()


async def test_a_frame_out_of_bounds_is_refused_before_anything_is_written():
    async with RawSource() as source:
        larger = BulkWriter(BulkLink(SESSION, 1, (4096,)), 0)
        source.sock.sendall(larger.run(0, 1024, 2) + page_bytes(2))
        assert "ends at page 1026 of region 0, which has 1024" in str(await source.failure())
        assert not source.memory.pages.any()


@pytest.mark.parametrize("page", [1024, 2**63, 2**64 - 1])
async def test_a_scattered_page_out_of_bounds_is_refused_before_anything_is_written(page):
    async with RawSource() as source:
        header = source.writer.scatter(0, 2)
        source.sock.sendall(header + struct.pack("<QQ", 5, page) + page_bytes(2))
        failure = await source.failure()
        assert isinstance(failure, RemoteProtocolError)
        assert f"page {page} of region 0" in str(failure)
        assert not source.memory.pages.any()


async def test_a_scattered_page_on_the_wrong_connection_is_refused():
    async with direct(2, 2 * CHUNK_PAGES) as link:
        connection = link.sender._outgoing[0].connection
        header = BulkWriter(link.link, 0).scatter(0, 1)
        connection.send(header + struct.pack("<Q", CHUNK_PAGES) + page_bytes(1))
        with pytest.raises(RemoteProtocolError, match="another connection"):
            async with asyncio.timeout(DEADLINE_S):
                await link.session.round_applied(1)
        assert not link.there[0].pages.any()


@pytest.mark.parametrize("cut", [10, 52, 52 + 100])
async def test_an_end_of_the_stream_in_the_middle_is_typed(cut):
    async with RawSource() as source:
        source.sock.sendall((source.writer.run(0, 3, 1) + page_bytes(1))[:cut])
        source.sock.close()
        failure = await source.failure()
        assert isinstance(failure, ConnectionLostError)
        assert "bulk connection 0, round 1" in str(failure)


async def test_a_session_that_broke_in_a_frame_holds_no_memory_once_it_is_closed() -> None:
    """Its failure passed frames that had a part of it in hands."""
    gc.collect()
    async with RawSource() as source:
        before = mapped_regions()
        gc.disable()
        try:
            source.sock.sendall(source.writer.run(0, 0, 2) + bytes(PAGE_BYTES))
            source.sock.close()
            await source.failure()
            await source.session.close()
            del source.memory
            assert mapped_regions() < before
        finally:
            gc.enable()


async def test_an_end_of_the_stream_without_an_end_frame_is_a_failure():
    async with RawSource() as source:
        source.sock.sendall(source.writer.round_end())
        async with asyncio.timeout(DEADLINE_S):
            await source.session.round_applied(1)
        source.sock.close()
        assert isinstance(await source.failure(), ConnectionLostError)


async def test_a_source_that_stalls_inside_a_frame_is_given_up():
    async with RawSource() as source:
        source.sock.sendall(source.writer.run(0, 3, 1) + b"only this")
        assert "moved no byte" in str(await source.failure())


async def test_a_source_may_be_idle_between_frames_for_longer_than_a_stall():
    async with RawSource() as source:
        # Silence for two stall times has to pass: the socket itself is the clock.
        source.sock.settimeout(2 * 0.2)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(source.sock.recv, 1)
        source.sock.sendall(source.writer.round_end())
        async with asyncio.timeout(DEADLINE_S):
            await source.session.round_applied(1)


class Hours:
    """A clock on which an hour passes from one look to the next."""

    def __init__(self) -> None:
        self._looks = 0
        self.some_have_passed = threading.Event()

    def monotonic(self) -> float:
        self._looks += 1
        if self._looks > 3:
            self.some_have_passed.set()
        return self._looks * 3600.0


async def test_a_connection_without_pages_may_be_idle_for_as_long_as_a_round_takes(monkeypatch):
    hours = Hours()
    monkeypatch.setattr(connection, "time", hours)
    async with RawSource() as source:
        assert await asyncio.to_thread(hours.some_have_passed.wait, DEADLINE_S)
        source.sock.sendall(source.writer.round_end())
        async with asyncio.timeout(DEADLINE_S):
            await source.session.round_applied(1)


async def applied(source: RawSource, round_number: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await source.session.round_applied(round_number)


@pytest.mark.parametrize("kind", ["RUN", "ZERO", "SPREAD", "ROUND_END"])
async def test_nothing_is_taken_after_the_last_round(kind):
    async with RawSource() as source:
        source.sock.sendall(source.writer.run(0, 3, 1) + page_bytes(1) + source.writer.round_end())
        await applied(source, 1)
        source.session.seal(1)
        frames = {
            "RUN": lambda: source.writer.run(0, 3, 1) + bytes(PAGE_BYTES),
            "ZERO": lambda: source.writer.zero(0, 3, 1),
            "SPREAD": lambda: source.writer.spread_over(1),
            "ROUND_END": source.writer.round_end,
        }
        source.sock.sendall(frames[kind]())
        assert f"a {kind} frame comes after the last round" in str(await source.failure())
        assert source.memory.pages[3].all(), "nothing of it was written"


async def test_a_link_may_end_after_the_last_round():
    async with RawSource() as source:
        source.sock.sendall(source.writer.round_end())
        await applied(source, 1)
        source.session.seal(1)
        source.sock.sendall(source.writer.end())
        assert "ended the link" in str(await source.failure_of_a_wait())
        assert source.session.failure is None


async def test_a_session_is_not_sealed_at_a_round_after_which_more_has_come():
    async with RawSource() as source:
        source.sock.sendall(source.writer.round_end() + source.writer.round_end())
        await applied(source, 2)
        with pytest.raises(RemoteProtocolError, match="after round 1"):
            source.session.seal(1)


async def test_a_session_is_not_sealed_while_the_next_round_is_coming(monkeypatch):
    """Its thread waits for the rest of a page then."""
    begun, take = threading.Event(), receiver._Incoming._take_pages

    def told(*given):
        begun.set()
        take(*given)

    monkeypatch.setattr(receiver._Incoming, "_take_pages", told)
    async with RawSource() as source:
        source.sock.sendall(source.writer.round_end() + source.writer.run(0, 3, 1) + b"only this")
        await applied(source, 1)
        assert await asyncio.to_thread(begun.wait, DEADLINE_S)
        with pytest.raises(RemoteProtocolError, match="after round 1"):
            source.session.seal(1)


async def test_a_source_that_is_gone_after_its_last_round_has_sent_all():
    async with RawSource() as source:
        source.sock.sendall(source.writer.round_end())
        await applied(source, 1)
        source.sock.close()
        assert isinstance(await source.failure(), ConnectionLostError)
        source.session.seal(1)


async def test_a_session_that_has_failed_of_what_came_is_not_sealed():
    async with RawSource() as source:
        source.sock.sendall(source.writer.round_end())
        await applied(source, 1)
        source.sock.sendall(BulkWriter(BulkLink(b"session2", 1, (1024,)), 0).zero(0, 3, 1))
        assert isinstance(await source.failure(), RemoteProtocolError)
        with pytest.raises(RemoteProtocolError, match="another migration"):
            source.session.seal(1)


async def test_a_second_connection_with_the_same_index_fails_the_session():
    async with RawSource() as source:
        with socket.create_connection(("127.0.0.1", source.listener.port), DEADLINE_S) as second:
            second.sendall(BulkWriter(LINK, 0).preamble(TOKEN))
            assert "came twice" in str(await source.failure())


@pytest.mark.parametrize(
    ("connection", "connections", "message"), [(0, 2, "agreed number"), (1, 1, "no bulk")]
)
async def test_connections_that_were_not_agreed_on_fail_the_session(
    connection, connections, message
):
    async with RawSource() as source:
        preamble = Preamble(FrameKind.BULK_HELLO, SESSION, TOKEN, connection, connections)
        with socket.create_connection(("127.0.0.1", source.listener.port), DEADLINE_S) as sock:
            sock.sendall(encode_preamble(preamble))
            assert message in str(await source.failure())


async def test_abort_ends_a_round_on_both_sides_and_all_threads():
    gate = Gate(byte_count=20 << 20)
    async with direct(2, 32 * CHUNK_PAGES, pacer=gate, omit_zeros=False) as link:
        everything = work(0, link.here[0], runs((0, 32 * CHUNK_PAGES)))
        sending = asyncio.create_task(asyncio.to_thread(link.sender.send_round, 1, [everything]))
        assert await asyncio.to_thread(gate.reached.wait, DEADLINE_S)
        assert 0 < link.sender.progress() <= 20 << 20
        link.sender.abort()
        gate.opened.set()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(AbortedError, match="aborted"):
                await sending
            with pytest.raises(ConnectionLostError):
                await link.session.round_applied(1)
            await asyncio.to_thread(link.sender.close)
            await link.session.close()
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("bulk-")]


async def test_abort_wakes_a_source_that_is_blocked_in_the_kernel():
    """The destination takes nothing, and the round is larger than all buffers on the way."""
    begun = Gate(byte_count=0)
    begun.opened.set()
    memory = Memory(LINK_64M.region_pages[0])
    everything = work(0, memory, runs((0, len(memory.pages))))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        sender = BulkSender.connect("127.0.0.1", port, LINK_64M, TOKEN, pacer=begun)
        sending = asyncio.create_task(asyncio.to_thread(sender.send_round, 1, [everything]))
        assert await asyncio.to_thread(begun.reached.wait, DEADLINE_S)
        sender.abort()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(AbortedError):
                await sending
        sender.close()


async def test_a_destination_that_takes_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        sender = BulkSender.connect(
            "127.0.0.1", deaf.getsockname()[1], LINK_64M, TOKEN, stall_s=0.2, omit_zeros=False
        )
        memory = Memory(LINK_64M.region_pages[0])
        everything = work(0, memory, runs((0, len(memory.pages))))
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(UnreachableError, match="moved no byte"):
                await asyncio.to_thread(sender.send_round, 1, [everything])
        sender.close()


async def test_a_session_that_is_closed_breaks_the_source_off():
    gate = Gate(byte_count=8 << 20)
    async with direct(2, 32 * CHUNK_PAGES, pacer=gate, omit_zeros=False) as link:
        everything = work(0, link.here[0], runs((0, 32 * CHUNK_PAGES)))
        sending = asyncio.create_task(asyncio.to_thread(link.sender.send_round, 1, [everything]))
        assert await asyncio.to_thread(gate.reached.wait, DEADLINE_S)
        await link.session.close()
        gate.opened.set()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(UnreachableError):
                await sending
            with pytest.raises(AbortedError):
                await link.session.round_applied(1)
            with pytest.raises(UnreachableError):
                await asyncio.to_thread(link.sender.send_round, 1, [everything])


DYING_SOURCE = """
import sys
sys.path[:0] = sys.argv[3:]
from direct_link import Memory, SESSION, TOKEN, runs, work
from godwit.transfer.sender import BulkSender
from godwit_protocol.bulk import BulkLink
memory = Memory(int(sys.argv[2]))
memory.pages[:] = 7
sender = BulkSender.connect(
    "127.0.0.1", int(sys.argv[1]), BulkLink(SESSION, 2, (len(memory.pages),)), TOKEN
)
for number in range(1, 4096):
    sender.send_round(number, [work(0, memory, runs((0, len(memory.pages))))])
"""


async def test_a_source_process_that_is_killed_in_a_round_fails_the_session():
    page_count = 8 * CHUNK_PAGES
    memory = Memory(page_count)
    listener = await LinkListener.open("127.0.0.1")
    session = IncomingSession(BulkLink(SESSION, 2, (page_count,)), [memory.pages])
    listener.expect(SESSION, TOKEN, lambda reader, writer: writer.close())
    listener.admit_bulk(session)
    source = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DYING_SOURCE,
        str(listener.port),
        str(page_count),
        *sys.path,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            await session.round_applied(2)
            source.kill()
            with pytest.raises(ConnectionLostError):
                await session.round_applied(4096)
        assert np.all(memory.pages == 7)
    finally:
        with contextlib.suppress(ProcessLookupError):
            source.kill()
        await source.wait()
        await session.close()
        await listener.close()


async def test_nobody_listening_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free_port = server.getsockname()[1]
    with pytest.raises(UnreachableError, match="no direct link"):
        BulkSender.connect("127.0.0.1", free_port, LINK, TOKEN)
    with pytest.raises(UnreachableError, match="no direct link"):
        await open_control("127.0.0.1", free_port, SESSION, TOKEN)


async def test_a_round_that_is_not_the_next_is_not_sent():
    async with direct(1, 8) as link:
        with pytest.raises(LocalProtocolError, match="round 2 is to be sent, and 1 is next"):
            link.sender.send_round(2, [])
        with pytest.raises(LocalProtocolError, match="in its region"):
            link.sender.send_round(1, [work(0, link.here[0], runs((7, 2)))])
        with pytest.raises(LocalProtocolError, match="the link was told"):
            link.sender.send_round(1, [work(0, Memory(9), runs((7, 2)))])
        await link.move(1, work(0, link.here[0], runs((0, 8))))


async def test_memory_that_is_not_what_the_link_says_is_refused():
    with pytest.raises(LocalProtocolError, match="no place"):
        IncomingSession(LINK, [np.zeros((8, 4096), np.uint8)])
    read_only = Memory(1024).pages.view()
    read_only.flags.writeable = False
    with pytest.raises(LocalProtocolError, match="no place"):
        IncomingSession(LINK, [read_only])
