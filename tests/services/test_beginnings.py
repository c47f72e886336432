"""A coordinator that starts reads what there is still to do for, and not the years before."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from godwit.catalogue.loading import load as load_catalogue
from godwit.coordinator import beginnings
from godwit.coordinator.beginnings import Beginnings
from godwit.coordinator.links import not_looked_at
from godwit.coordinator.losses import Losses
from godwit.coordinator.service import Desk, serve
from godwit.host.fencing import NoFencing
from godwit.runtime import jetstream_api as api
from godwit.runtime.clock import SystemClock
from godwit.runtime.health import Health
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import beginning, codec, subjects
from godwit_protocol.beginning import DONE_WITH_NS, Beginning, Place
from godwit_protocol.errors import GodwitError, InvalidInputError
from godwit_protocol.events.migration import MigrationEnded
from godwit_protocol.stored import Stored

GOLDEN = LogFile(Path(__file__).parents[1] / "golden" / "logs" / "v1-completed.ndjson")
SAID = subjects.beginning("coordinator")
EVENT_S_MAX = 20.0


class LaterClock(SystemClock):
    """Two days on."""

    def wall_ns(self) -> int:
        return super().wall_ns() + 2 * DONE_WITH_NS


class Counted(Desk):
    """A coordinator's desk that notes what it was shown before it began."""

    learned: list[int]
    begun: asyncio.Event

    def learn(self, stored: Stored) -> None:
        self.learned.append(stored.sequence)
        super().learn(stored)

    def begin(self) -> None:
        super().begin()
        self.begun.set()


class Cancelled(asyncio.TaskGroup):
    """Tasks that are cancelled all together, as a service's are."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[asyncio.Task[None]] = []

    def create_task(self, coro: Coroutine[Any, Any, None], **options: Any) -> asyncio.Task[None]:
        self.made.append(super().create_task(coro, **options))
        return self.made[-1]

    def cancel(self) -> None:
        for task in self.made:
            task.cancel()


async def put(log: NatsLog, *numbers: int) -> list[Place]:
    """A golden migration that has ended, under other ids. Returns where each was asked for."""
    own = GOLDEN.head().of
    first: list[Place] = []
    for number in numbers:
        migration = f"{own[:-8]}{number:08x}"
        places = [
            await log.append(
                stored.subject.replace(own, migration),
                stored.data.replace(own.encode(), migration.encode()),
                message_id=f"{number}-{stored.sequence}",
            )
            for stored in GOLDEN.messages()
        ]
        first.append(Place(migration=migration, sequence=places[0]))
    return first


async def said(log: NatsLog) -> Beginning:
    """What a coordinator has said of where to begin, when it has."""
    async with asyncio.timeout(EVENT_S_MAX):
        return beginning.decode((await anext(log.tail([SAID]))).data)


async def learned_by_a_coordinator(log: NatsLog) -> list[int]:
    """The places of what one that starts reads, until it has said where the next may begin."""
    async with Cancelled() as tasks:
        desk = Counted(
            log,
            LaterClock(),
            "coordinator-1",
            tasks,
            load_catalogue(),
            not_looked_at,
            Losses(log, NoFencing(), nobody_lives),
            beginnings=Beginnings(log, LaterClock()),
        )
        desk.learned, desk.begun = [], asyncio.Event()
        tasks.create_task(serve(desk, log, Health("coordinator")))
        async with asyncio.timeout(EVENT_S_MAX):
            await desk.begun.wait()
        await said(log)
        tasks.cancel()
    return desk.learned


async def nobody_lives(_host: str) -> bool:
    return False


async def test_the_second_to_start_reads_from_where_the_first_has_said(own_log: NatsLog) -> None:
    requests = await put(own_log, 1, 2, 3)
    all_of_it = await learned_by_a_coordinator(own_log)
    assert all_of_it[0] == requests[0].sequence
    assert (await said(own_log)).request == requests[-1]
    rest = await learned_by_a_coordinator(own_log)
    assert rest == [at for at in all_of_it if at >= requests[-1].sequence]


async def ends(log: NatsLog) -> list[Place]:
    filters = subjects.whole_migration("*")
    seen = [codec.decode(stored.data, stored.sequence) async for stored in log.read(filters)]
    return [
        Place(migration=each.envelope.migration, sequence=each.sequence)
        for each in seen
        if isinstance(each.event, MigrationEnded)
    ]


async def say(log: NatsLog, data: bytes) -> int:
    """Say where to begin; return what is made of it."""
    await log.append(SAID, data, message_id=SystemClock().new_id())
    return await Beginnings(log, SystemClock()).find()


async def test_a_beginning_is_believed_only_if_the_log_has_what_it_names(own_log: NatsLog) -> None:
    requests = await put(own_log, 1, 2)
    first_end, _ = await ends(own_log)
    true = Beginning(request=requests[1], end=first_end)
    assert await say(own_log, beginning.encode(true)) == requests[1].sequence - 1
    wrong = (
        Beginning(request=requests[1], end=Place(migration=first_end.migration, sequence=3)),
        Beginning(request=requests[1], end=Place(migration="nobody", sequence=first_end.sequence)),
        Beginning(request=Place(migration=requests[1].migration, sequence=3), end=first_end),
        Beginning(request=Place(migration="nobody", sequence=3), end=first_end),
    )
    for each in wrong:
        assert await say(own_log, beginning.encode(each)) == 0
    assert await say(own_log, b"nothing of the kind") == 0


class Trying(Beginnings):
    """Notes what came of each time that it was said."""

    def __init__(self, log: NatsLog) -> None:
        super().__init__(log, LaterClock())
        self.errors: asyncio.Queue[GodwitError] = asyncio.Queue()

    async def _say(self) -> None:
        try:
            await super()._say()
        except GodwitError as error:
            self.errors.put_nowait(error)
            raise


async def test_a_server_of_before_is_read_from_the_start_and_nothing_is_said(
    own_log: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no stream for that: all goes on as it did, until provision runs again."""
    monkeypatch.setattr(beginnings, "SAID_AGAIN_S", 0.0)
    call = f"STREAM.DELETE.{subjects.BEGINNINGS}"
    assert (await own_log.ask_api(call, {}, api.Reply, 5.0)).error is None
    await put(own_log, 1, 2)
    found = Trying(own_log)
    assert await found.find() == 0
    async for stored in own_log.read(subjects.whole_migration("*")):
        found.learn(stored, codec.decode(stored.data, stored.sequence))
    async with Cancelled() as tasks, asyncio.timeout(EVENT_S_MAX):
        tasks.create_task(found.keep())
        told = [await found.errors.get() for _ in range(2)]
        tasks.cancel()
    assert all(isinstance(error, InvalidInputError) for error in told)
