"""The coordinator signs last: after everybody else, also for a replica that died before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from godwit.catalogue.loading import load as load_catalogue
from godwit.coordinator import last_signature
from godwit.coordinator.last_signature import SUCCEED_NS_MAX, LastSignatures
from godwit.coordinator.links import not_looked_at
from godwit.coordinator.losses import Losses
from godwit.coordinator.service import Desk, serve
from godwit.host.fencing import NoFencing
from godwit.runtime.clock import SystemClock
from godwit.runtime.health import Health
from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit.runtime.log_file import LogFile
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import codec, subjects
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.signed import LaneSigned
from godwit_protocol.replay.chains import Noted
from godwit_protocol.replay.findings import Verification
from godwit_protocol.replay.last_signature import ANY, awaited, is_signed_last
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored
from signers import SIGNERS, TRUST

LOGS = Path(__file__).parents[1] / "golden" / "logs"
SOURCE, DESTINATION = (Lane.SOURCE, "host-1"), (Lane.DESTINATION, "host-2")
TRACKER = Lane.TRACKER, "tracker-1"
EVENT_S_MAX = 20.0
SOON_S = 0.2


class LaterClock(SystemClock):
    """Two days on."""

    def wall_ns(self) -> int:
        return super().wall_ns() + 2 * SUCCEED_NS_MAX


class Told:
    """A golden migration in a server, and whoever goes on to write of it."""

    def __init__(self, log: NatsLog, migration: str) -> None:
        self.log = log
        self.migration = migration

    @classmethod
    async def of(cls, log: NatsLog, name: str) -> Told:
        file = LogFile(LOGS / f"{name}.ndjson")
        for message in file.messages():
            message_id = message.headers[MESSAGE_ID_HEADER]
            await log.append(message.subject, message.data, message_id=message_id)
        return cls(log, file.head().of)

    async def messages(self) -> list[Stored]:
        filters = subjects.whole_migration(self.migration)
        return [stored async for stored in self.log.read(filters)]

    async def write(
        self, lane: Lane, name: str, event: Event | None = None, *, life: str = ""
    ) -> None:
        """An event, or None: the signature of what stands."""
        scope = Scope.of_migration(self.migration, "m")
        position = await position_in_log(self.log, lane, name, scope, life=life)
        writer = LaneWriter(SystemClock(), lane, name, scope, position, life=life)
        sealed = writer.sign(SIGNERS[name]) if event is None else writer.seal(event)
        await sealed.append_to(self.log)

    async def answer(self) -> None:
        """What the tracker says last."""
        released = rev.ReservationReleased(reservation=self.migration, target="host-2", why="over")
        await self.write(*TRACKER, released)
        await self.write(*TRACKER)

    async def last_signed(self, after: int = 0) -> Stored:
        """The coordinator's signature, when it comes."""
        subject = subjects.migration(self.migration, Lane.COORDINATOR, LaneSigned.TYPE)
        async with asyncio.timeout(EVENT_S_MAX):
            return await anext(self.log.tail([subject], after_sequence=after))

    async def verified(self) -> Verification:
        return verify(self.migration, await self.messages(), trust=TRUST)


def story_of(messages: list[Stored]) -> list[Recorded]:
    return [codec.decode(each.data, each.sequence) for each in messages]


async def nobody_lives(_host: str) -> bool:
    return False


@asynccontextmanager
async def replicas(log: NatsLog, *names: str) -> AsyncIterator[None]:
    """Coordinators beside each other, until each has signed what it has to."""
    serving = []
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            desk = Desk(
                log,
                SystemClock(),
                name,
                tasks,
                load_catalogue(),
                not_looked_at,
                Losses(log, NoFencing(), nobody_lives),
                signer=SIGNERS[name],
            )
            serving.append(tasks.create_task(serve(desk, log, Health("coordinator"))))
        yield
        for task in serving:
            task.cancel()


async def test_it_waits_for_all_and_one_replica_signs(own_log: NatsLog) -> None:
    told = await Told.of(own_log, "v1-completed")
    assert awaited(story_of(await told.messages())) == {SOURCE, DESTINATION, (Lane.TRACKER, ANY)}
    async with replicas(own_log, "coordinator-1", "coordinator-2"):
        await told.write(*SOURCE)
        await told.write(*DESTINATION)
        await told.answer()
        signed = await told.last_signed()
    messages = await told.messages()
    assert messages[-1] == signed, "the other replica has seen that it is done"
    assert is_signed_last(story_of(messages))
    found = await told.verified()
    assert found.is_whole, (found.faults, found.unproven)


async def test_one_that_died_before_it_signed_is_succeeded_and_later_events_are_signed_again(
    own_log: NatsLog,
) -> None:
    told = await Told.of(own_log, "v1-aborted")
    await told.write(Lane.SOURCE, "host-2")
    await told.write(Lane.DESTINATION, "host-1")
    await told.answer()
    assert not awaited(story_of(await told.messages()))
    async with replicas(own_log, "coordinator-2"):
        signed = await told.last_signed()
        assert (await told.verified()).is_whole
        await told.answer()
        await told.last_signed(after=signed.sequence)
    found = await told.verified()
    assert found.is_whole, (found.faults, found.unproven)


LATE = ev.DoubtRaised(message="host host-2 does not answer the abort")


@pytest.mark.parametrize("is_known", [False, True], ids=["while-it-runs", "before-it-starts"])
async def test_what_a_killed_life_had_on_its_way_is_signed_for_when_it_comes(
    own_log: NatsLog, is_known: bool
) -> None:
    told = await Told.of(own_log, "v1-aborted")
    await told.write(Lane.SOURCE, "host-2")
    await told.write(Lane.DESTINATION, "host-1")
    await told.answer()
    async with replicas(own_log, "coordinator-1"):
        signed = await told.last_signed()
        if not is_known:
            await told.write(Lane.COORDINATOR, "coordinator-1", LATE, life="killed")
            await told.last_signed(after=signed.sequence)
    if is_known:
        await told.write(Lane.COORDINATOR, "coordinator-1", LATE, life="killed")
        assert (await told.verified()).faults
        async with replicas(own_log, "coordinator-2"):
            await told.last_signed(after=signed.sequence)
    assert not (await told.verified()).faults


async def test_a_signature_that_has_not_seen_all_before_it_is_not_the_last(
    own_log: NatsLog,
) -> None:
    """Its writer read, another's event came, and it signed and died before it looked again."""
    told = await Told.of(own_log, "v1-aborted")
    story = story_of(await told.messages())
    await told.write(Lane.COORDINATOR, "coordinator-1", LATE, life="killed")
    scope = Scope.of_migration(told.migration, "m")
    writer = LaneWriter(SystemClock(), Lane.COORDINATOR, "coordinator-1", scope, life="next")
    for seen, due in ((len(story), [told.migration]), (len(story) + 1, [])):
        sealed = writer.sign(SIGNERS["coordinator-1"], Noted(seen, b""))
        async with asyncio.TaskGroup() as tasks:
            signatures = last_signatures(told, tasks, SystemClock())
        for recorded in (*story_of(await told.messages()), codec.decode(sealed.data)):
            signatures.learn(told.migration, recorded, SystemClock().wall_ns())
        assert signatures.due() == due


async def test_so_many_signed_migrations_are_remembered(
    own_log: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_signature, "DUE_MAX", 1)
    told = await Told.of(own_log, "v1-aborted")
    await told.write(Lane.COORDINATOR, "coordinator-1")
    late, *_, signed = story_of(await told.messages())
    async with asyncio.TaskGroup() as tasks:
        signatures = last_signatures(told, tasks, SystemClock())
    for migration in ("first", "second"):
        assert not signatures.learn(migration, signed, 1)
    assert not signatures.learn("first", late, 2)
    assert signatures.learn("second", late, 2)


def last_signatures(
    told: Told, tasks: asyncio.TaskGroup, clock: SystemClock, **settings: float
) -> LastSignatures:
    signer = SIGNERS["coordinator-1"]
    return LastSignatures(told.log, clock, "coordinator-1", "a", signer, tasks, **settings)


async def test_who_never_signs_is_not_waited_for_for_ever(own_log: NatsLog) -> None:
    told = await Told.of(own_log, "v1-rolled-back")
    await told.write(Lane.SOURCE, "host-2")
    async with asyncio.TaskGroup() as tasks:
        signatures = last_signatures(told, tasks, SystemClock(), others_sign_s_max=SOON_S)
        signatures.look(told.migration)
    messages = await told.messages()
    assert is_signed_last(story_of(messages))
    assert awaited(story_of(messages)) == {(Lane.DESTINATION, "host-1"), TRACKER}
    assert (await told.verified()).is_whole, "the coordinator has seen what they wrote"


async def test_what_ended_long_ago_is_left_as_it_is(own_log: NatsLog) -> None:
    told = await Told.of(own_log, "v1-completed")
    messages = await told.messages()
    async with asyncio.TaskGroup() as tasks:
        for clock, due in ((SystemClock(), [told.migration]), (LaterClock(), [])):
            signatures = last_signatures(told, tasks, clock)
            for stored, recorded in zip(messages, story_of(messages), strict=True):
                signatures.learn(told.migration, recorded, stored.time_ns)
            assert signatures.due() == due
