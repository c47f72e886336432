"""What a killed replica had on its way may be stored when its next life has written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from godwit.gpu_state_tracker.answers import Answers, Asked
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import codec, subjects
from godwit_protocol.events import reservation as rev
from godwit_protocol.replay.chains import Chains

CLOCK, NAME = SystemClock(), "test"


class LateLog(NatsLog):
    """Stores the first event only when it is told to."""

    sent: asyncio.Event
    arrives: asyncio.Event
    stored: asyncio.Event

    async def append(self, subject: str, data: bytes, **told: Any) -> int:
        self.sent.set()
        await self.arrives.wait()
        sequence = await super().append(subject, data, **told)
        self.stored.set()
        return sequence


@pytest_asyncio.fixture
async def late(nats_server: NatsServer) -> AsyncIterator[LateLog]:
    opened = await LateLog.connect(nats_server.url, name="late")
    opened.sent, opened.arrives, opened.stored = (asyncio.Event() for _ in range(3))
    yield opened
    await opened.close()


async def faults(log: NatsLog, migration: str) -> list[str]:
    chains, found = Chains(), []
    async for stored in log.read(subjects.whole_migration(migration)):
        found += [fault.text for fault in chains.take(stored, codec.decode(stored.data).envelope)]
    return found


async def test_a_trackers_lane_does_not_fork(log: NatsLog, late: LateLog) -> None:
    migration = CLOCK.new_id()
    scope = Scope.of_migration(migration, "m")
    request = rev.ReservationRequested(
        reservation=migration, machine="m", target="h", profiles=(), framebuffer_bytes=()
    )
    asked = Asked(request, scope, None, "", 1, 1)
    expired = rev.ReservationExpired(reservation=migration, target="h")
    released = rev.ReservationReleased(reservation=migration, target="h", why="over")
    first = asyncio.create_task(Answers(late, CLOCK, NAME).tell(asked, expired))
    await late.sent.wait()
    await Answers(log, CLOCK, NAME).tell(asked, released)
    late.arrives.set()
    await late.stored.wait()
    await first
    assert await faults(log, migration) == []
