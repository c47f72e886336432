"""A migration's conductor, with a core that wants what a test says: what it tells the core, and
what it does of what that wants.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import ANY, AsyncMock, Mock

import msgspec
import pytest
import structlog

from godwit.coordinator import conductor as module
from godwit.coordinator.claims import Claims
from godwit.coordinator.conductor import ATTEMPTS_MAX, Conductor
from godwit.coordinator.links import not_looked_at
from godwit.host.fencing import NotFencedError
from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import AppendConflictError
from godwit.runtime.lane import Scope
from godwit_protocol import codec
from godwit_protocol import register as reg
from godwit_protocol.errors import ConflictError
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.events.bandwidth import BandwidthOrdered
from godwit_protocol.events.loss import LossOrdered
from godwit_protocol.roles import coordinator as core
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator_state import CoordinatorState
from godwit_protocol.roles.effects import Address, Durability, Service
from memory_log import MemoryLog

CLOCK = SystemClock()
SCOPE = Scope.of_migration("now", "m")
REQUESTED = ev.MigrationRequested(machine="m", destination="host-2", limits=ev.Limits())
CONSIDERED = inp.Considered(
    machine="m",
    destination="host-2",
    limits=ev.Limits(),
    verify=ev.Verify.OFF,
    spec=None,
    record=None,
    destination_known=True,
    refusals=("an objection",),  # type: ignore[arg-type]
)
RELEASED = ev.MachineReleased()
START = ev.StartDecided(start=True)
GIVE_UP = LossOrdered(requested_by="ada@desk")
TO = Address("host-1", Service.SOURCE_HOST)


def ordered(change: int) -> BandwidthOrdered:
    return BandwidthOrdered(change=change, order="o", bandwidth_bytes_per_second=1)


def wanted(event: Event, to: Address | None = None) -> fx.Effect:
    return fx.Append(event=event, durability=Durability.LOGGED, to=to)


class ScriptedCore:
    """``roles.coordinator`` of which each input leads to what a test says, and the last to the end.

    ``told`` is what it was told.
    """

    Phase = core.Phase

    def __init__(self) -> None:
        self.told: list[inp.Input] = []
        self.bound: list[dict[str, Any]] = []
        self.effects: dict[type[inp.Input], Sequence[fx.Effect]] = defaultdict(tuple)
        self.last: type[inp.Input] = inp.SourceReleased
        self.deadline_ns: int | None = None

    def begin(self, migration: str) -> CoordinatorState:
        return core.begin(migration)

    def step(
        self, state: CoordinatorState, given: inp.Input, _now_ns: int
    ) -> tuple[CoordinatorState, Sequence[fx.Effect]]:
        self.told.append(given)
        self.bound.append(structlog.contextvars.get_contextvars())
        if isinstance(given, self.last):
            state = msgspec.structs.replace(state, phase=core.Phase.ENDED)
        return state, self.effects[type(given)]

    def next_deadline_ns(self, _state: CoordinatorState) -> int | None:
        return self.deadline_ns

    def unproven(self, _state: CoordinatorState) -> Sequence[str]:
        return ("host-1", "host-2")


class Bench:
    """A conductor of one migration, over a log in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: MemoryLog | None = None) -> None:
        self.log = log or MemoryLog()
        self.core = ScriptedCore()
        monkeypatch.setattr(module, "core", self.core)
        self.consider = AsyncMock(return_value=CONSIDERED)
        monkeypatch.setattr(module, "consider", self.consider)
        self.losses = Mock(prove_off=AsyncMock(return_value=[]), write_off=AsyncMock())
        self.estimates = Mock(of=AsyncMock(return_value="estimated"))
        self.look, self.catalogue = Mock(), Mock()
        self.conductor = self.made(self.estimates)

    def made(self, estimates: Any) -> Conductor:
        return Conductor(
            "now",
            REQUESTED,
            self.log,  # type: ignore[arg-type]
            CLOCK,
            "c-1",
            "life",
            self.catalogue,
            estimates,
            self.look,
            self.losses,
        )

    async def learn(self, event: Event, lane: Lane = Lane.OPERATOR, host: str = "desk") -> str:
        """An event is in the log, and is read."""
        event_id = await self.log.say(lane, host, SCOPE, event)
        stored = self.log.stored[-1]
        self.conductor.learn(stored, codec.decode(stored.data, stored.sequence))
        return event_id

    async def run(self) -> None:
        async with asyncio.timeout(10):
            await self.conductor.run()

    async def has_told(self, count: int) -> None:
        """The core has heard so much."""
        await until(lambda: len(self.core.told) == count)

    def decided(self) -> list[Event]:
        """What the conductor wrote."""
        return [each.event for each in self.log.told(Lane.COORDINATOR)]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0)


# What the core is told.


async def test_the_core_is_told_each_fact_once_until_the_end(bench: Bench) -> None:
    for event in (
        REQUESTED,
        ev.CancelRequested(),
        ev.CancelRequested(),
        ev.GoGiven(staged_heard_ns=1),
        RELEASED,
        ev.MigrationAbandoned(reason=ev.AbortReason.NONE),
    ):
        await bench.learn(event)
    await bench.run()
    kinds = [type(given) for given in bench.core.told]
    assert kinds == [inp.Considered, inp.CancelWanted, inp.SourceReleased]
    assert all(bound == {"migration": "now", "machine": "m"} for bound in bench.core.bound)


async def test_what_comes_while_it_waits_is_heard(bench: Bench) -> None:
    running = asyncio.create_task(bench.run())
    for event, told in ((ev.CancelRequested(), 1), (RELEASED, 2)):
        for _ in range(5):
            await asyncio.sleep(0)
        await bench.learn(event)
        await bench.has_told(told)
    await running


async def test_at_its_deadline_the_core_is_told_the_time(bench: Bench) -> None:
    bench.core.deadline_ns, bench.core.last = CLOCK.wall_ns(), inp.Tick
    await bench.run()
    assert bench.core.told == [inp.Tick()]


async def test_a_migration_that_has_ended_is_left_alone(bench: Bench) -> None:
    end = ev.MigrationEnded(outcome=ev.Outcome.COMPLETED)
    await bench.log.say(Lane.COORDINATOR, "c-2", SCOPE, end)
    await bench.run()
    assert bench.core.told == []


# What is considered.


async def test_the_hosts_and_their_link_are_looked_at_before_anything_is_decided(
    bench: Bench,
) -> None:
    await bench.learn(ev.CancelRequested())
    await bench.learn(REQUESTED)
    await bench.learn(RELEASED, Lane.SOURCE, "host-1")
    await bench.run()
    bench.consider.assert_awaited_once_with(bench.log, bench.catalogue, REQUESTED, bench.look, ANY)
    assert CONSIDERED in bench.core.told


async def test_what_was_found_compatible_stays_so(bench: Bench) -> None:
    await bench.learn(START, Lane.COORDINATOR, "c-2")
    await bench.learn(REQUESTED)
    await bench.learn(RELEASED, Lane.SOURCE, "host-1")
    await bench.run()
    bench.consider.assert_awaited_once_with(
        bench.log, bench.catalogue, REQUESTED, not_looked_at, ANY
    )
    assert msgspec.structs.replace(CONSIDERED, refusals=()) in bench.core.told


async def test_a_move_is_estimated_from_where_the_machine_is(bench: Bench) -> None:
    await bench.learn(REQUESTED)
    await bench.learn(RELEASED, Lane.SOURCE, "host-1")
    await bench.run()
    (considered,) = bench.consider.await_args_list
    estimate = considered.args[-1]
    assert await estimate(None) is None
    assert await estimate(reg.started("m", "host-2", None)) is None
    bench.estimates.of.assert_not_awaited()
    assert await estimate(reg.started("m", "host-1", None)) == "estimated"
    bench.estimates.of.assert_awaited_once_with("now", REQUESTED, "host-1")


async def test_without_histories_nothing_is_estimated(bench: Bench) -> None:
    record = reg.started("m", "host-1", None)
    assert await bench.made(None)._estimated(REQUESTED, record) is None


# What the core wants.


async def test_decisions_are_a_chain_that_names_its_causes(bench: Bench) -> None:
    bench.core.effects[inp.CancelWanted] = [wanted(ordered(1), TO), wanted(START)]
    cause = await bench.learn(ev.CancelRequested())
    await bench.learn(RELEASED)
    await bench.run()
    assert bench.decided() == [ordered(1), START]
    envelopes = [each.envelope for each in bench.log.told(Lane.COORDINATOR)]
    assert [each.lane_sequence for each in envelopes] == [1, 2]
    assert {(each.causation, each.host, each.life) for each in envelopes} == {
        (cause, "c-1", "life")
    }
    assert ".host-1.source_host." in bench.log.stored[-2].subject


@pytest.mark.parametrize(("holder", "won"), [("", True), ("another", False)])
async def test_the_core_is_told_whose_the_claim_is(bench: Bench, holder: str, won: bool) -> None:
    claims = Claims(bench.log, CLOCK)  # type: ignore[arg-type]
    if holder:
        await claims.take("m", holder)
    bench.core.effects[inp.CancelWanted] = [fx.TakeClaim(machine="m")]
    bench.core.effects[inp.ClaimSettled] = [fx.ReleaseClaim(machine="m")]
    bench.core.last = inp.ClaimReleased
    await bench.learn(ev.CancelRequested())
    await bench.run()
    assert bench.core.told[1:] == [
        inp.ClaimSettled(won=won, holder=holder or "now"),
        inp.ClaimReleased(),
    ]
    assert await claims.take("m", "next") == (holder or "next")


async def test_a_machine_that_is_lost_is_written_off(bench: Bench) -> None:
    bench.losses.write_off.return_value = 4
    bench.core.effects[inp.CancelWanted] = [
        fx.WriteOff(machine="m", epoch=3),
        fx.Finish(reason=ev.AbortReason.NONE),
    ]
    bench.core.last = inp.WrittenOff
    await bench.learn(ev.CancelRequested())
    await bench.run()
    bench.losses.write_off.assert_awaited_once_with("m", "now", 3)
    assert bench.core.told[1:] == [inp.WrittenOff(epoch=4)]


async def test_what_is_no_coordinator_s_to_do_is_not_passed_over(bench: Bench) -> None:
    bench.core.effects[inp.CancelWanted] = [fx.FreeMemory()]
    await bench.learn(ev.CancelRequested())
    await bench.learn(RELEASED)
    with pytest.raises(TypeError, match="not an effect of the coordinator"):
        await bench.run()


# Decisions that stand.


async def test_what_stands_is_not_written_again(bench: Bench) -> None:
    await bench.learn(START, Lane.COORDINATOR, "c-2")
    await bench.learn(ordered(2), Lane.COORDINATOR, "c-2")
    bench.core.effects[inp.CancelWanted] = [wanted(START), wanted(ordered(1)), wanted(ordered(2))]
    await bench.learn(ev.CancelRequested())
    await bench.learn(RELEASED)
    await bench.run()
    assert bench.decided() == [START, ordered(2)]


async def test_what_was_written_stands_and_is_not_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt = AsyncMock()
    monkeypatch.setattr(Conductor, "_adopt", adopt)
    bench.core.effects[inp.CancelWanted] = [wanted(START), wanted(ordered(1)), wanted(ordered(2))]
    bench.core.effects[inp.SourceReleased] = [wanted(START)]
    await bench.learn(ev.CancelRequested())
    await bench.learn(RELEASED)
    await bench.run()
    assert bench.decided() == [START, ordered(1), ordered(2)]
    adopt.assert_not_awaited()


async def test_what_another_has_decided_meanwhile_goes(bench: Bench) -> None:
    for event in (ev.StartDecided(start=False), ordered(1)):
        await bench.log.say(Lane.COORDINATOR, "c-2", SCOPE, event)
    bench.core.effects[inp.CancelWanted] = [wanted(START), wanted(ordered(2))]
    await bench.learn(ev.CancelRequested())
    await bench.learn(RELEASED)
    await bench.run()
    assert bench.decided() == [ev.StartDecided(start=False), ordered(1), ordered(2)]


class Changing(MemoryLog):
    """A log in which a decision always has just been written."""

    tries = 0

    async def append(self, subject: str, data: bytes, **given: Any) -> int:
        if given.get("expected_last_sequence") is not None:
            self.tries += 1
            raise AppendConflictError(subject)
        return await super().append(subject, data, **given)


async def test_a_decision_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Changing()
    bench = Bench(monkeypatch, log)
    await log.say(Lane.COORDINATOR, "c-2", SCOPE, ordered(1))
    bench.core.effects[inp.CancelWanted] = [wanted(ordered(2))]
    await bench.learn(ev.CancelRequested())
    await bench.learn(RELEASED)
    with pytest.raises(ConflictError, match="change all the time"):
        await bench.run()
    assert log.tries == ATTEMPTS_MAX


# Orders to give a machine up.


async def test_the_proof_of_each_host_is_said(bench: Bench) -> None:
    proofs = [ev.HostFenced(target=host, vouched_by="ada@desk") for host in ("host-1", "host-2")]
    bench.losses.prove_off.return_value = proofs
    order = await bench.learn(GIVE_UP)
    await bench.learn(RELEASED)
    await bench.run()
    bench.losses.prove_off.assert_awaited_once_with(("host-1", "host-2"), "ada@desk")
    assert bench.decided() == proofs
    envelopes = [each.envelope for each in bench.log.told(Lane.COORDINATOR)]
    assert [(each.lane_sequence, each.causation) for each in envelopes] == [(1, order), (2, order)]
    assert [type(given) for given in bench.core.told] == [inp.SourceReleased]


async def test_without_proof_an_order_is_refused_and_stays_so(bench: Bench) -> None:
    bench.losses.prove_off.side_effect = NotFencedError("it answers")
    first = await bench.learn(GIVE_UP)
    await bench.learn(ev.RunOrderRefused(order=first, message="no"), Lane.COORDINATOR, "c-2")
    second = await bench.learn(GIVE_UP)
    await bench.learn(RELEASED)
    await bench.run()
    refused = ev.RunOrderRefused(order=second, message="it answers")
    assert bench.decided()[1:] == [refused]


async def test_so_many_orders_are_heard_and_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOSS_ORDERS_MAX", 2)
    for _ in range(3):
        await bench.learn(GIVE_UP)
    await bench.learn(RELEASED)
    await bench.run()
    assert bench.losses.prove_off.await_count == 2
