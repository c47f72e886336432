"""The destination host's service, on a host of which nothing but its journals is real: what it
begins and what it goes on with, and which of its arrivals hears what.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import structlog

from godwit.content.store import ContentStore
from godwit.destination_host import service as module
from godwit.destination_host.service import DestinationHost
from godwit.host.disk import HostDirectory
from godwit.host.journals import Journals
from godwit.host.orphans import NEVER_RAN
from godwit.hypervisor.port import VmmState
from godwit.runtime.clock import SystemClock
from godwit.runtime.journal import Journal
from godwit.runtime.lane import Scope
from godwit_protocol import register as reg
from godwit_protocol.errors import RefusedError
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import DestinationState, Phase
from godwit_protocol.roles.effects import Address, Durability, Service
from memory_log import MemoryLog
from orders import preparation

HERE, THERE = "host-2", "host-1"
INBOX = Address(HERE, Service.DESTINATION_HOST)
STANDING = reg.RegisterView(reg.started("m", THERE, None), 1)
GONE_ON = reg.RegisterView(
    reg.moved(reg.moved(reg.started("m", THERE, None), "host-3", "later"), THERE, "later"), 3
)
RUN = ev.RunOrdered(target=HERE, requested_by="ada@desk")
STAGED = ev.ImageStaged(
    pages=1, received_bytes=1, received_ns=1, staged_ns=1, verified=ev.Verify.OFF
)
PREPARED = ev.DestinationPrepared(address="192.0.2.2", port=1, token=b"t", create_ns=1)


def spec(machine: str = "m") -> MachineSpec:
    return MachineSpec(name=machine, guest="guests:Any", ram_bytes=4096)


class FakeArrival:
    """``Arrival`` that runs until it may end, and notes what it is told."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.machine = given[2].name
        self.heard: list[object] = []
        self.bound: list[dict[str, Any]] = []
        self.begun: list[DestinationState] = []
        self.ran: tuple[DestinationState, tuple[fx.Effect, ...]] | None = None
        self.may_end = asyncio.Event()

    def begin(self, state: DestinationState) -> None:
        self.begun.append(state)

    async def run(
        self, state: DestinationState, effects: tuple[fx.Effect, ...]
    ) -> DestinationState:
        self.ran = (state, effects)
        self.bound.append(structlog.contextvars.get_contextvars())
        await self.may_end.wait()
        return state

    def note(self, decision: Recorded) -> None:
        self.bound.append(structlog.contextvars.get_contextvars())
        self.heard.append(type(decision.event))

    def tell(self, given: inp.Input) -> None:
        self.heard.append(given)

    def order(self, order: str, ordered: ev.RunOrdered, *, is_new: bool) -> None:
        self.heard.append((order, ordered, is_new))


class FakeOrphans:
    """``Orphans`` that never look."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.watched = False

    async def watch(self) -> None:
        self.watched = True


class Bench:
    """A service over a log in memory. ``arrivals`` is what it has begun, in that order."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrivals: list[FakeArrival] = []
        self.log = MemoryLog()
        outbox = Mock()
        outbox.put.side_effect = lambda *_, **__: _stored()
        config = Mock(content_directory=None, content_store=False)
        self.host = Mock(
            clock=SystemClock(), log=self.log, outbox=outbox, config=config, signer=None
        )
        self.host.name = HERE
        self.disk = self.host.disk = HostDirectory(path)
        self.host.registers.known = AsyncMock(return_value=STANDING)
        self.host.hypervisor.find = AsyncMock(return_value=None)
        self.health, self.listener = Mock(ready=False), Mock()
        self.tasks = asyncio.TaskGroup()
        self.service: DestinationHost
        self._serving: asyncio.Task[None] | None = None
        monkeypatch.setattr(module, "Arrival", self._arrival)
        monkeypatch.setattr(module, "Orphans", FakeOrphans)

    def _arrival(self, *given: Any) -> FakeArrival:
        self.arrivals.append(FakeArrival(*given))
        return self.arrivals[-1]

    @property
    def orphans(self) -> FakeOrphans:
        orphans = self.service._orphans
        assert isinstance(orphans, FakeOrphans)
        return orphans

    @property
    def done(self) -> int:
        """The last decision that needs not come again."""
        return self.disk.cursor("destination_host").read()

    def vmm_is(self, state: VmmState) -> None:
        vmm = Mock(status=AsyncMock(return_value=Mock(state=state)))
        self.host.hypervisor.find = AsyncMock(return_value=vmm)

    async def serve(self) -> None:
        self.service = DestinationHost(self.host, self.tasks, self.health, self.listener)
        self._serving = self.tasks.create_task(self.service.run())
        await until(lambda: self.health.ready)

    async def say(self, event: Event, migration: str = "now", machine: str = "m") -> str:
        scope = Scope.of_migration(migration, machine)
        return await self.log.say(Lane.COORDINATOR, "c", scope, event, INBOX)

    async def is_heard(self) -> None:
        """All that was said has been carried out."""
        await until(lambda: self.done == len(self.log.stored))

    async def left(self, *facts: Event, migration: str = "now", machine: str = "m") -> None:
        """A former life has left a journal."""
        ordered = preparation(spec(machine), THERE, HERE)
        scope = Scope.of_migration(migration, machine)
        await self.log.say(Lane.COORDINATOR, "c", scope, ordered, INBOX)
        journals = Journals(self.host, "destination_host", Lane.DESTINATION)
        opened = journals.create(migration, machine, self.log.stored[-1].data)
        for fact in facts:
            opened.facts.write(fact, Durability.LAGGING)
        assert isinstance(opened.journal, Journal)
        opened.journal.close()

    async def end(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        for arrival in self.arrivals:
            arrival.may_end.set()


def _stored() -> asyncio.Future[bool]:
    stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    stored.set_result(True)
    return stored


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    async with made.tasks:
        yield made
        await made.end()


# What is begun.


async def test_an_order_to_prepare_begins_an_arrival(bench: Bench) -> None:
    await bench.serve()
    await until(lambda: bench.orphans.watched)
    ordered = preparation(spec(), THERE, HERE)
    await bench.say(ordered)
    await bench.is_heard()
    (arrival,) = bench.arrivals
    host, migration, its_spec, facts, listener, source, content = arrival.given
    assert (host, migration, its_spec, source) == (bench.host, "now", spec(), THERE)
    assert (listener, type(content)) == (bench.listener, ContentStore)
    assert facts.writer.scope == Scope.of_migration("now", "m")
    await until(lambda: arrival.ran)
    assert arrival.ran is not None
    state, effects = arrival.ran
    assert (state.phase, arrival.begun) == (Phase.PREPARING, [state])
    assert effects
    assert arrival.heard == []
    assert arrival.bound == [{"migration": "now", "machine": "m"}]
    assert bench.service.open == ("now",)
    journals = Journals(bench.host, "destination_host", Lane.DESTINATION)
    assert journals.leftovers() == ["now"]
    arrival.may_end.set()
    await until(lambda: not bench.service.open)
    assert journals.leftovers() == []


async def test_a_disk_that_will_fill_up_has_room_for_a_refusal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_blank = Mock(return_value="")
    monkeypatch.setattr(Journals, "keep_blank", keep_blank)
    await bench.serve()
    keep_blank.assert_called_once_with()


async def test_an_order_that_comes_again_begins_nothing(bench: Bench) -> None:
    await bench.serve()
    ordered = preparation(spec(), THERE, HERE)
    await bench.say(ordered)
    await bench.say(ordered)
    await bench.is_heard()
    assert [arrival.heard for arrival in bench.arrivals] == [[ev.PreparationOrdered]]


async def test_what_the_log_knows_to_have_been_begun_is_not_begun_again(bench: Bench) -> None:
    await bench.log.say(Lane.DESTINATION, HERE, Scope.of_migration("now", "m"), PREPARED)
    await bench.serve()
    await bench.say(preparation(spec(), THERE, HERE))
    await bench.say(preparation(spec(), THERE, HERE), "next")
    await bench.is_heard()
    assert [arrival.given[1] for arrival in bench.arrivals] == ["next"]


async def test_a_decision_that_could_not_be_carried_out_comes_again(bench: Bench) -> None:
    bench.host.registers.known = AsyncMock(side_effect=RefusedError("no"))
    service = DestinationHost(bench.host, bench.tasks, bench.health, bench.listener)
    await bench.say(preparation(spec(), THERE, HERE))
    with pytest.raises(RefusedError):
        await service.run()
    assert bench.done == 0


@pytest.mark.parametrize(("why", "begun"), [("", 2), ("no room", 1)])
async def test_on_a_full_disk_one_refusal_is_written_after_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, why: str, begun: int
) -> None:
    monkeypatch.setattr(Journals, "keep_blank", lambda _: why)
    await bench.serve()
    for migration in ("now", "next"):
        await bench.say(preparation(spec(), THERE, HERE), migration)
    await until(lambda: bench.arrivals and bench.arrivals[0].ran)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(bench.arrivals) == begun
    bench.arrivals[0].may_end.set()
    await until(lambda: len(bench.arrivals) == 2)


# What an arrival hears.


async def test_an_arrival_hears_what_is_for_its_migration(bench: Bench) -> None:
    await bench.serve()
    for migration in ("now", "another"):
        await bench.say(preparation(spec(), THERE, HERE), migration)
    cancelled = AbortReason.CANCELLED
    told: list[tuple[Event, object]] = [
        (
            ev.AbortOrdered(reason=cancelled, message="why"),
            inp.AbortWanted(reason=cancelled, message="why"),
        ),
        (ev.AbortIntended(reason=cancelled), inp.PeerAbort(reason=cancelled)),
        (ev.MigrationAbandoned(reason=cancelled), inp.PeerRuns()),
        (mev.MachineFailed(message="dead"), inp.PeerFenced()),
        (ev.HostFenced(target=THERE, program="p", answer="a", vouched_by=""), inp.PeerFenced()),
    ]
    for event, _ in told:
        await bench.say(event)
        await bench.say(event, "unknown")
    order = await bench.say(RUN)
    await bench.is_heard()
    now, another = bench.arrivals
    heard: list[object] = []
    for event, given in told:
        heard += [type(event), given]
    assert now.heard == [*heard, ev.RunOrdered, (order, RUN, True)]
    assert another.heard == []
    await until(lambda: now.ran)
    assert all(bound == {"migration": "now", "machine": "m"} for bound in now.bound)


# Orders that come too late.


class Answering:
    """``answer_order`` that takes until it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, Lane, str]] = []
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, host: object, lane: Lane, order: Recorded) -> None:
        self.asked.append((host, lane, order.envelope.migration))
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    made = Answering()
    monkeypatch.setattr(module, "answer_order", made)
    return made


async def test_late_orders_are_answered_in_turn_while_others_are_heard(
    bench: Bench, answering: Answering
) -> None:
    await bench.serve()
    await bench.say(RUN, "ended")
    await bench.say(RUN, "ended-too")
    await bench.say(preparation(spec(), THERE, HERE))
    await until(lambda: bench.arrivals and answering.asked)
    for _ in range(20):
        await asyncio.sleep(0)
    assert answering.asked == [(bench.host, Lane.DESTINATION, "ended")]
    assert bench.done == 0
    answering.may_end.set()
    await bench.is_heard()
    assert [migration for _, _, migration in answering.asked] == ["ended", "ended-too"]


async def test_an_order_that_cannot_be_answered_comes_again(
    bench: Bench, answering: Answering
) -> None:
    await bench.serve()
    answering.error = RefusedError("no")
    answering.may_end.set()
    await bench.say(RUN, "ended")
    await until(lambda: answering.asked)
    await bench.say(preparation(spec(), THERE, HERE))
    await until(lambda: bench.arrivals)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (bench.done, bench.service.open) == (0, ("now",))


# What is left behind, and whose it is.


async def test_what_was_left_behind_is_told_in_the_machine_s_lane(bench: Bench) -> None:
    await bench.serve()
    host, kinds, is_held, tell = bench.orphans.given
    assert (host, kinds) == (bench.host, NEVER_RAN)
    for epoch in (1, 2):
        await tell(
            "m",
            mev.StaleMachineFrozen(image_epoch=epoch, owner=THERE, register_epoch=9),
        )
    told = bench.log.told(Lane.DESTINATION)
    assert [each.envelope.lane_sequence for each in told] == [1, 2]
    assert not is_held("m")
    await bench.say(preparation(spec("other"), THERE, HERE), machine="other")
    await until(lambda: bench.arrivals)
    assert (is_held("m"), is_held("other")) == (False, True)


# After a restart.


async def test_a_journal_without_its_decision_is_not_gone_on_with(bench: Bench) -> None:
    await bench.left(migration="older")
    folder = bench.host.disk.journals("destination_host")
    folder.begin("newer").close()
    await bench.serve()
    assert [arrival.given[1] for arrival in bench.arrivals] == ["older"]
    assert folder.names() == ["older"]


async def recovered(bench: Bench) -> tuple[DestinationState, tuple[fx.Effect, ...]]:
    await bench.serve()
    await until(lambda: all(arrival.ran for arrival in bench.arrivals))
    ran = bench.arrivals[-1].ran
    assert ran is not None
    return ran


@pytest.mark.parametrize(
    ("found", "phase"),
    [
        (VmmState.GATED, Phase.DISCARDING),
        (VmmState.LOADED, Phase.DISCARDING),
        (VmmState.RUNNING, Phase.DISCARDED),
        (VmmState.PAUSED, Phase.DISCARDED),
        (None, Phase.DISCARDED),
    ],
)
async def test_of_a_machine_that_has_gone_on_only_an_image_that_never_ran_is_freed(
    bench: Bench, found: VmmState | None, phase: Phase
) -> None:
    bench.host.registers.known = AsyncMock(return_value=GONE_ON)
    if found is not None:
        bench.vmm_is(found)
    await bench.left(PREPARED, STAGED)
    state, effects = await recovered(bench)
    assert (state.phase, (fx.FreeMemory() in effects)) == (phase, phase is Phase.DISCARDING)


async def test_an_image_of_a_newer_migration_is_not_freed(bench: Bench) -> None:
    bench.host.registers.known = AsyncMock(return_value=GONE_ON)
    bench.vmm_is(VmmState.LOADED)
    await bench.left(PREPARED, STAGED, migration="a-first")
    await bench.left(PREPARED, STAGED, migration="b-second")
    state, _ = await recovered(bench)
    assert [arrival.given[1] for arrival in bench.arrivals] == ["b-second", "a-first"]
    assert state.phase is Phase.DISCARDED


@pytest.mark.parametrize(
    ("found", "facts", "phase"),
    [
        (VmmState.RUNNING, (PREPARED,), Phase.OPENING),
        (VmmState.LOADED, (PREPARED,), Phase.STAGED),
        (VmmState.LOADED, (), Phase.DISCARDING),
        (VmmState.GATED, (PREPARED,), Phase.DISCARDING),
        (None, (PREPARED,), Phase.DISCARDING),
    ],
)
async def test_an_image_is_whole_if_the_vmm_that_was_prepared_for_it_has_it(
    bench: Bench, found: VmmState | None, facts: tuple[Event, ...], phase: Phase
) -> None:
    if found is not None:
        bench.vmm_is(found)
    await bench.left(*facts)
    state, _ = await recovered(bench)
    assert state.phase is phase


async def test_the_vmm_of_a_newer_migration_is_not_an_older_one_s(bench: Bench) -> None:
    bench.vmm_is(VmmState.LOADED)
    await bench.left(PREPARED, migration="a-first")
    await bench.left(PREPARED, migration="b-second")
    await recovered(bench)
    second, first = bench.arrivals
    assert second.ran is not None
    assert first.ran is not None
    assert first.ran[0].phase is Phase.DISCARDING
    assert second.ran[0].phase is not Phase.DISCARDING


async def test_what_was_said_before_a_restart_is_told_again_as_old(bench: Bench) -> None:
    await bench.left(PREPARED)
    cancelled = ev.AbortOrdered(reason=AbortReason.CANCELLED)
    order = await bench.say(RUN)
    await bench.say(cancelled)
    elsewhere = Address(HERE, Service.SOURCE_HOST)
    scope = Scope.of_migration("now", "m")
    await bench.log.say(
        Lane.COORDINATOR, "c", scope, ev.AbortIntended(reason=AbortReason.CANCELLED), elsewhere
    )
    bench.host.disk.cursor("destination_host").write(len(bench.log.stored))
    await recovered(bench)
    (arrival,) = bench.arrivals
    assert {"migration": "now", "machine": "m"} in arrival.bound
    assert arrival.heard == [
        ev.PreparationOrdered,
        ev.RunOrdered,
        (order, RUN, False),
        ev.AbortOrdered,
        inp.AbortWanted(reason=AbortReason.CANCELLED, message=""),
    ]
