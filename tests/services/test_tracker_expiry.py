"""Reservations that nobody uses end by themselves, and no others do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from godwit.gpu_state_tracker.occupancy import is_unused
from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import Scope
from godwit.runtime.nats_log import NatsLog
from godwit_protocol import ledger, register, subjects
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.ledger import EntryKind, Holding, LedgerEntry, RefusalCode
from godwit_protocol.machine import MachineSpec

from .service_processes import StartService
from .world import World

PROFILE = "1g.10gb"
LONG_AGO_NS = 1


def held_line(host: str, machine: str, reservation: str, *, start: int = 0) -> LedgerEntry:
    placement = rev.Placement(
        gpu=0,
        profile=PROFILE,
        framebuffer_bytes=4096,
        mode=GpuMode.MIG,
        start=start,
        slots=1,
    )
    return LedgerEntry(
        kind=EntryKind.HELD,
        reservation=reservation,
        machine=machine,
        host=host,
        placements=(placement,),
        expires_wall_ns=LONG_AGO_NS,
    )


async def write_line(log: NatsLog, entry: LedgerEntry) -> None:
    standing = await log.last(subjects.ledger(entry.host))
    await log.append(
        subjects.ledger(entry.host),
        ledger.encode_entry(entry),
        message_id=SystemClock().new_id(),
        expected_last_sequence=0 if standing is None else standing.sequence,
    )


@pytest.mark.e2e
async def test_what_nobody_uses_expires_and_what_is_used_does_not(
    own_world: World, start_service: StartService
) -> None:
    """Any of two replicas may end it. The unused one is written last, so that whoever ends it has
    considered the others before.
    """
    world = own_world
    for name in ("tracker-a", "tracker-b"):
        start_service("gpu_state_tracker", GODWIT_TRACKER_ID=name)
    host = await world.host("H100-80GB")
    await world.write(Lane.SOURCE, host, Scope.of_machine("used"), started("start-1"))
    await write_line(world.log, held_line(host, "used", "start-1", start=1))
    await world.wait_ledger(host, EntryKind.CONFIRMED, "start-1")
    moving = Scope.of_migration("migration-1", "moving")
    await world.write(Lane.OPERATOR, "test", moving, REQUESTED)
    await write_line(world.log, held_line(host, "moving", "migration-1", start=2))
    await write_line(world.log, held_line(host, "unused", "start-2", start=3))
    picture = await world.wait_ledger(host, EntryKind.EXPIRED, "start-2")
    assert set(picture.holdings) == {"start-1", "migration-1"}
    aborted = ev.MigrationEnded(outcome=Outcome.ABORTED, reason=AbortReason.CANCELLED)
    await world.write(Lane.COORDINATOR, "coordinator-1", moving, aborted)
    picture = await world.wait_ledger(host, EntryKind.RELEASED, "migration-1")
    assert set(picture.holdings) == {"start-1"}


async def test_who_asks_again_for_an_expired_one_is_told_so(world: World, unique_name: str) -> None:
    host = await world.host("H100-80GB")
    reservation = SystemClock().new_id()
    await write_line(world.log, held_line(host, unique_name, reservation))
    await world.wait_ledger(host, EntryKind.EXPIRED, reservation)
    await world.ask_capacity(host, unique_name, PROFILE, start=reservation)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        refused = await watch.until(rev.ReservationRefused)
    assert refused.code == RefusalCode.EXPIRED


async def test_a_grant_says_until_when(world: World, unique_name: str) -> None:
    host = await world.host("H100-80GB")
    before_ns = SystemClock().wall_ns()
    reservation = await world.ask_capacity(host, unique_name, PROFILE)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        granted = await watch.until(rev.ReservationGranted)
    held = await world.wait_ledger(host, EntryKind.HELD, reservation)
    assert held.holdings[reservation].expires_wall_ns == granted.expires_wall_ns
    life_ns = granted.expires_wall_ns - before_ns
    assert abs(life_ns - ledger.RESERVATION_LIFE_NS) < 60 * 10**9


@pytest.mark.parametrize("outcome", [Outcome.ABORTED, Outcome.IN_DOUBT, None])
async def test_a_migrations_reservation_ends_with_it_and_not_by_the_clock(
    world: World, unique_name: str, outcome: Outcome | None
) -> None:
    """Ended: its end frees it. In doubt or running: it may be used."""
    migration = f"migration-{unique_name}"
    scope = Scope.of_migration(migration, unique_name)
    await world.write(Lane.OPERATOR, "test", scope, REQUESTED)
    if outcome is not None:
        ended = ev.MigrationEnded(outcome=outcome, reason=AbortReason.CANCELLED)
        await world.write(Lane.COORDINATOR, "coordinator-1", scope, ended)
    assert not await is_unused(world.log, "host-1", held(migration, unique_name))


Said = Callable[[World, str], Awaitable[None]]


async def nothing(world: World, name: str) -> None:
    """Nobody has said anything."""


async def started_it(world: World, name: str) -> None:
    await world.write(Lane.SOURCE, "host-1", Scope.of_machine(name), started(f"start-{name}"))


async def refused_it(world: World, name: str) -> None:
    refused = mev.MachineStartRefused(start=f"start-{name}", code="guest", message="it raised")
    await world.write(Lane.SOURCE, "host-1", Scope.of_machine(name), refused)


async def started_another(world: World, name: str) -> None:
    await world.write(Lane.SOURCE, "host-1", Scope.of_machine(name), started("another"))


async def owned_here(world: World, name: str) -> None:
    """The service died between taking the ownership and saying that it has."""
    await own(world, name, "host-1")


async def owned_elsewhere(world: World, name: str) -> None:
    await own(world, name, "host-2")


async def own(world: World, name: str, host: str) -> None:
    record = register.encode(register.started(name, host, None))
    await world.log.append(subjects.register(name), record, message_id=f"{host}-{name}")


@pytest.mark.parametrize(
    ("said", "unused"),
    [
        (nothing, True),
        (started_it, False),
        (refused_it, False),
        (started_another, True),
        (owned_here, False),
        (owned_elsewhere, True),
    ],
)
async def test_a_starts_reservation_is_unused_only_if_nothing_says_otherwise(
    world: World, unique_name: str, said: Said, unused: bool
) -> None:
    await said(world, unique_name)
    found = await is_unused(world.log, "host-1", held(f"start-{unique_name}", unique_name))
    assert found is unused


async def test_what_cannot_be_read_is_no_proof(world: World, unique_name: str) -> None:
    subject = subjects.machine(unique_name, Lane.SOURCE, mev.MachineStarted.TYPE)
    await world.log.append(subject, b"\xc1", message_id=unique_name)
    with pytest.raises(CorruptError):
        await is_unused(world.log, "host-1", held("start", unique_name))


def held(reservation: str, machine: str) -> Holding:
    return Holding(reservation=reservation, machine=machine, placements=(), confirmed=False)


def started(start: str) -> mev.MachineStarted:
    spec = MachineSpec(name="m", guest="module:Guest", ram_bytes=4096)
    return mev.MachineStarted(start=start, spec=spec, register_epoch=1)


REQUESTED = ev.MigrationRequested(machine="m", destination="host-1", limits=ev.Limits())
