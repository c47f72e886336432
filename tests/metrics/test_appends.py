"""What a connection's appends leave in the figures, on a real server, and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

import pytest
import pytest_asyncio

from godwit.metrics import definitions as metrics
from godwit.metrics.appends import APPENDS_A_TURN, LEARN_AFTER_S, Appends
from godwit.metrics.figures import Figures
from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import AppendConflictError
from godwit.runtime.lane import LaneWriter, Scope, Sealed
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.observed_log import ObservedLog
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events.migration import DoubtRaised

COST_S_MAX = 10e-6
"""What an append may cost more with an observer. It is a tenth of that where nothing else runs."""


class Watched:
    """An observed connection, its figures, and the events that were learned."""

    def __init__(self, log: ObservedLog) -> None:
        self.log = log
        self.figures = Figures()
        self.learned: list[Recorded] = []
        self.came = asyncio.Event()
        self.observer = Appends(self.figures, self.learned.append, lambda _: self.came.set())
        log.observer = self.observer

    def appends(self, stream: str) -> int:
        found = self.figures.histograms()[metrics.APPEND_SECONDS].get((stream,))
        return 0 if found is None else sum(found.counts)


@pytest_asyncio.fixture
async def watched(nats_server: NatsServer, log: NatsLog) -> AsyncIterator[Watched]:
    connected = await ObservedLog.connect(nats_server.url, name="watched")
    yield Watched(connected)
    await connected.close()


def sealed(migration: str) -> Sealed:
    scope = Scope.of_migration(migration)
    return LaneWriter(SystemClock(), Lane.SOURCE, "host-1", scope).seal(DoubtRaised(message="?"))


async def test_a_stored_event_is_timed_and_learned_a_little_later(
    watched: Watched, unique_name: str
) -> None:
    event = sealed(unique_name)
    await event.append_to(watched.log)
    assert watched.learned == [], "not in the turn of the loop that may be a stun's"
    assert watched.appends(subjects.EVENTS) == 0
    async with asyncio.timeout(10 * LEARN_AFTER_S):
        await watched.came.wait()
    assert [recorded.envelope.id for recorded in watched.learned] == [event.message_id]
    assert watched.appends(subjects.EVENTS) == 1


async def test_a_burst_is_learned_whole_and_in_order(watched: Watched, unique_name: str) -> None:
    events = [sealed(unique_name) for _ in range(3 * APPENDS_A_TURN)]
    for event in events:
        await event.append_to(watched.log)
    async with asyncio.timeout(20 * LEARN_AFTER_S):
        while len(watched.learned) < len(events):
            watched.came.clear()
            await watched.came.wait()
    learned = [recorded.envelope.id for recorded in watched.learned]
    assert learned == [event.message_id for event in events]


async def test_a_lost_compare_and_set_is_a_conflict_and_no_fact(
    watched: Watched, unique_name: str
) -> None:
    subject = subjects.register(unique_name)
    await watched.log.append(subject, b"1", message_id="first", expected_last_sequence=0)
    with pytest.raises(AppendConflictError):
        await watched.log.append(subject, b"2", message_id="second", expected_last_sequence=0)
    assert watched.figures.read()[metrics.APPEND_CONFLICTS][subjects.REGISTER,] == 1
    assert watched.figures.read()[metrics.APPEND_FAILURES][subjects.REGISTER,] == 0
    watched.observer.learn_rest()
    assert watched.appends(subjects.REGISTER) == 1


async def test_an_append_without_an_answer_is_a_failure(own_server: NatsServer) -> None:
    watched = Watched(await ObservedLog.connect(own_server.url, name="watched"))
    await own_server.stop()
    with pytest.raises(UnreachableError):
        await watched.log.append(subjects.ledger("h"), b"", message_id="1", timeout_s=0.2)
    assert watched.figures.read()[metrics.APPEND_FAILURES][subjects.LEDGER,] == 1
    await watched.log.close()


async def test_what_an_append_costs_more_is_microseconds(unique_name: str) -> None:
    """The append inside the stun pays this, and the facts of a stun after it."""
    appends, event = Appends(Figures(), lambda _: None), sealed(unique_name)
    took_s = []
    for _ in range(2_000):
        began_s = perf_counter()
        appends.appended(event.subject, event.data, 0.001)
        took_s.append(perf_counter() - began_s)
    assert sorted(took_s)[len(took_s) // 2] < COST_S_MAX
