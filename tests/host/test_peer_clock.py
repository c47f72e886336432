"""A source asks over the link how far the destination's clock is ahead of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from godwit.host.peer_clock import QUESTIONS, PeerClock, answer
from godwit.transfer.control import ControlLink
from godwit_protocol import link

AHEAD_NS = 7_000_000_000


def there_ns() -> int:
    """What the destination's clock shows."""
    return time.monotonic_ns() + AHEAD_NS


class Destination:
    """What of it answers."""

    def __init__(self) -> None:
        self.control: ControlLink | None = None
        self.answered = 0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.control = ControlLink(reader, writer, self._heard, str)

    def _heard(self, message: link.AnyLinkMessage) -> None:
        heard_ns = there_ns()
        assert isinstance(message, link.Ping)
        assert self.control is not None
        self.answered += 1
        self.control.say(answer(message, heard_ns, there_ns))


class Source:
    """What of it asks. ``heard``: whenever an answer was taken."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.control = ControlLink(reader, writer, self._heard, str)
        self.clock = PeerClock(time.monotonic_ns, self.control.say)
        self.heard: asyncio.Queue[link.AnyLinkMessage] = asyncio.Queue()

    def _heard(self, message: link.AnyLinkMessage) -> None:
        heard_ns = time.monotonic_ns()
        assert isinstance(message, link.Pong)
        self.clock.take(message, heard_ns)
        self.heard.put_nowait(message)


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Source, Destination]]:
    destination = Destination()
    server = await asyncio.start_server(destination.accept, "127.0.0.1", 0)
    source = Source(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    yield source, destination
    await source.control.close()
    if destination.control is not None:
        await destination.control.close()
    server.close()


async def test_the_offset_that_is_found_is_within_its_error() -> None:
    async with linked() as (source, destination), asyncio.timeout(10):
        assert (source.clock.offset_ns(), source.clock.error_ns()) == (None, 0)
        source.clock.ask()
        for _ in range(QUESTIONS):
            await source.heard.get()
        offset_ns = source.clock.offset_ns()
        assert offset_ns is not None
        assert abs(offset_ns - AHEAD_NS) <= source.clock.error_ns()
        assert destination.answered == QUESTIONS


def test_nothing_is_asked_once_the_stun_is_near_and_an_old_answer_counts_for_nothing() -> None:
    asked: list[link.Ping] = []
    clock = PeerClock(lambda: 100, asked.append)
    clock.ask()
    clock.stop()
    clock.take(link.Pong(asked_ns=99, heard_ns=1, said_ns=1), 102)
    assert clock.offset_ns() is None
    clock.take(link.Pong(asked_ns=100, heard_ns=1100, said_ns=1100), 110)
    assert (clock.offset_ns(), clock.error_ns()) == (995, 5)
    clock.take(link.Pong(asked_ns=100, heard_ns=1100, said_ns=1100), 100)
    assert clock.error_ns() == 5, "it was answered already"
    clock.ask()
    assert asked == [link.Ping(asked_ns=100)]
