"""Whether one host reaches another: the question goes round, and who is silent is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
import pytest_asyncio

from godwit.coordinator import links
from godwit.coordinator.links import is_alive, look_at_link
from godwit.destination_host.link_offers import LinkOffers
from godwit.runtime.clock import SystemClock
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.source_host.link_probes import LinkProbes
from godwit.transfer.connection import open_control
from godwit.transfer.listener import LinkListener
from godwit.transfer.probe import answer_probes
from godwit_protocol.errors import UnreachableError
from godwit_protocol.link import LINK_VERSION
from godwit_protocol.link_probe import LinkFound, LinkUnknown, asked_of, offered_to


class TwoHosts:
    """What the two services of two hosts do about their link, on the run's server."""

    def __init__(self, log: NatsLog, listener: LinkListener) -> None:
        self.log = log
        self.listener = listener
        self.port = listener.port
        self.source, self.destination = (f"h-{uuid4().hex[:12]}" for _ in range(2))
        self._tasks: list[asyncio.Task[None]] = []

    def offer(self) -> None:
        """The destination's service runs."""
        offers = LinkOffers(self.log, self.destination, "127.0.0.1", self.port)
        self._tasks.append(asyncio.create_task(offers.run()))

    def probe(self) -> None:
        """The source's service runs."""
        probes = LinkProbes(self.log, SystemClock(), self.source, open_control)
        self._tasks.append(asyncio.create_task(probes.run()))

    async def look(self) -> LinkFound | LinkUnknown:
        """What somebody is told who asks."""
        return await look_at_link(self.log, SystemClock(), self.source, self.destination)

    async def stop(self) -> None:
        """Both services end, and neither had before."""
        assert not any(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def two(log: NatsLog) -> AsyncIterator[TwoHosts]:
    async with AsyncExitStack() as after:
        listener = await LinkListener.open("127.0.0.1")
        after.push_async_callback(listener.close)
        made = TwoHosts(log, listener)
        after.push_async_callback(made.stop)
        yield made


async def test_the_source_goes_there_and_says_who_answered(two: TwoHosts) -> None:
    answer_probes(two.listener, two.destination)
    two.offer()
    two.probe()
    for _ in range(3):
        found = await two.look()
        assert isinstance(found, LinkFound)
        assert (found.answered_by, found.error) == (two.destination, "")
        assert (found.version, found.port) == (LINK_VERSION, two.port)
        assert 0 < found.answer_ns < 10**9


async def test_a_port_that_is_closed_is_named_with_its_error(two: TwoHosts) -> None:
    two.offer()
    two.probe()
    await two.listener.close()
    found = await two.look()
    assert isinstance(found, LinkFound)
    assert f"127.0.0.1:{two.port}" in found.error
    assert "refused" in found.error.lower()


async def test_who_is_silent_is_named(two: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ANSWER_S_MAX", 0.4)
    monkeypatch.setattr(links, "ASK_EVERY_S", 0.1)
    nobody = await two.look()
    assert isinstance(nobody, LinkUnknown)
    assert f"destination_host service of {two.destination}" in nobody.why
    two.offer()
    one = await two.look()
    assert isinstance(one, LinkUnknown)
    assert f"source_host service of {two.source}" in one.why


async def test_what_cannot_be_read_is_passed_over(two: TwoHosts) -> None:
    answer_probes(two.listener, two.destination)
    two.offer()
    two.probe()
    assert isinstance(await two.look(), LinkFound)
    for subject in (asked_of(two.destination), offered_to(two.source)):
        for junk in (b"", b"\xc1", b"\x80", b"x" * 10_000):
            await two.log.announce(subject, junk)
    assert isinstance(await two.look(), LinkFound)


async def lives(log: NatsLog, host: str) -> bool:
    return await is_alive(log, SystemClock(), host)


async def test_a_host_lives_if_either_of_its_services_says_anything(two: TwoHosts) -> None:
    two.offer()
    two.probe()
    assert await lives(two.log, two.destination)
    assert await lives(two.log, two.source)


async def test_silence_says_nothing_while_the_log_is_away(
    own_log: NatsLog, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "ANSWER_S_MAX", 0.4)
    monkeypatch.setattr(links, "ASK_EVERY_S", 0.02)
    assert not await lives(own_log, "host-1")
    await own_server.stop()
    with pytest.raises(UnreachableError):
        await lives(own_log, "host-1")
