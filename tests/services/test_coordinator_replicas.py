"""Coordinators that die, come back, stand beside each other, or wake up late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from godwit.runtime.lane import Scope
from godwit.runtime.nats_server import NatsServer
from godwit_protocol import codec, register, subjects
from godwit_protocol.events import CHAIN_START, Event, Lane, stored_hash
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.estimate import EstimateMade
from godwit_protocol.events.migration import AbortReason, Outcome

from .service_processes import StartService
from .world import Watch, World

pytestmark = pytest.mark.e2e

BANDWIDTHS = [125_000 * number for number in range(1, 9)]
"""Asked for one after the other, faster than anybody could answer."""


async def carried_out(world: World, watch: Watch, migration: Scope, hosts: tuple[str, str]) -> None:
    """Play both hosts to the migration's end."""
    source, destination = hosts
    await watch.until(ev.PreparationOrdered)
    await world.prepare(migration, destination)
    await watch.until(ev.MigrationStarted)
    await world.move(migration, source, destination)
    await watch.until(ev.MigrationEnded)


def decisions(watch: Watch) -> Counter[str]:
    return Counter(seen.recorded.envelope.type for seen in watch.of_lane(Lane.COORDINATOR))


def assert_chains(watch: Watch) -> None:
    """The events of each life of a writer about the migration are one unbroken chain."""
    last: dict[tuple[str, str], tuple[int, bytes]] = {}
    for seen in watch.of_lane(Lane.COORDINATOR):
        envelope = seen.recorded.envelope
        writer = envelope.host, envelope.life
        sequence, expected_hash = last.get(writer, (0, CHAIN_START))
        assert (envelope.lane_sequence, envelope.prev_hash) == (sequence + 1, expected_hash)
        last[writer] = (envelope.lane_sequence, stored_hash(seen.stored.data))


EACH_ONCE = Counter(
    kind.TYPE
    for kind in (
        EstimateMade,
        rev.ReservationRequested,
        ev.PreparationOrdered,
        ev.StartDecided,
        ev.MigrationStarted,
        ev.MigrationEnded,
    )
)


async def test_a_coordinator_killed_in_every_phase_loses_and_doubles_nothing(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    start_service("gpu_state_tracker")
    coordinator = start_service("coordinator")
    hosts = await world.host("H100-80GB"), await world.host("H100-80GB")
    machine = await world.machine(hosts[0], "7g.80gb")

    async def killed_after(watch: Watch, kind: type[Event]) -> None:
        await watch.until(kind)
        coordinator.kill()
        coordinator.restart()

    migration = await world.request(machine, hosts[1])
    async with world.watch(migration) as watch:
        await killed_after(watch, ev.MigrationRequested)
        await killed_after(watch, rev.ReservationRequested)
        await killed_after(watch, ev.PreparationOrdered)
        await world.prepare(migration, hosts[1])
        await killed_after(watch, ev.StartDecided)
        await killed_after(watch, ev.MigrationStarted)
        await world.activate(migration, *hosts)
        await killed_after(watch, ev.MachineActivated)
        await world.write(Lane.SOURCE, hosts[0], migration, ev.MachineReleased())
        await killed_after(watch, ev.MigrationEnded)
        await watch.until(rev.ReservationConfirmed)
    assert watch.all_of(ev.MigrationEnded)[0].outcome is Outcome.COMPLETED
    assert decisions(watch) == EACH_ONCE
    assert_chains(watch)
    envelopes = [seen.recorded.envelope for seen in watch.of_lane(Lane.COORDINATOR)]
    assert len({envelope.host for envelope in envelopes}) == 1
    assert len({envelope.life for envelope in envelopes}) > 1
    await follow_up(world, machine, hosts[0])


async def follow_up(world: World, machine: str, destination: str) -> None:
    """Whatever happened before, the machine can be claimed again."""
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)


async def test_an_abort_survives_the_coordinator_that_ordered_it(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    start_service("gpu_state_tracker")
    coordinator = start_service("coordinator")
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        await world.prepare(migration, destination)
        await watch.until(ev.MigrationStarted)
        coordinator.kill()
        await world.cancel(migration)
        coordinator.restart()
        await watch.until(ev.AbortOrdered)
        coordinator.kill()
        await world.abandon(migration, source, AbortReason.CANCELLED)
        coordinator.restart()
        ended = await watch.until(ev.MigrationEnded)
    assert (ended.outcome, ended.reason) == (Outcome.ABORTED, AbortReason.CANCELLED)
    assert max(decisions(watch).values()) == 1
    assert_chains(watch)


async def test_a_restart_of_the_log_is_waited_out(
    own_world: World, own_server: NatsServer, start_service: StartService
) -> None:
    world = own_world
    running = [start_service(module) for module in ("gpu_state_tracker", "coordinator")]
    hosts = await world.host("H100-80GB"), await world.host("H100-80GB")
    machine = await world.machine(hosts[0], "7g.80gb")
    migration = await world.request(machine, hosts[1])
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        await own_server.kill()
        await own_server.restart()
        await carried_out(world, watch, migration, hosts)
        await watch.until(rev.ReservationConfirmed)
    assert decisions(watch) == EACH_ONCE
    assert_chains(watch)
    assert [process.stop() for process in running] == [0, 0]


async def changed_again_and_again(world: World, watch: Watch, migration: Scope) -> None:
    """Each of the operator's requests becomes one order, in their order, whoever writes it."""
    for number, bandwidth in enumerate(BANDWIDTHS):
        wanted = bev.BandwidthRequested(order=str(number), bandwidth_bytes_per_second=bandwidth)
        await world.write(Lane.OPERATOR, "test", migration, wanted)
    last = await watch.until(bev.BandwidthOrdered, len(BANDWIDTHS))
    ordered = watch.all_of(bev.BandwidthOrdered)
    told = [(each.change, each.order, each.bandwidth_bytes_per_second) for each in ordered]
    assert told == [
        (number + 1, str(number), bandwidth) for number, bandwidth in enumerate(BANDWIDTHS)
    ]
    standing = await world.log.last(watch.subject_of(bev.BandwidthOrdered))
    assert standing is not None
    assert codec.decode(standing.data, standing.sequence).event == last


async def test_two_coordinators_take_each_decision_once(
    own_world: World, start_service: StartService
) -> None:
    """Also those that are taken again and again while the machine moves."""
    world = own_world
    start_service("gpu_state_tracker")
    names = ("coordinator-a", "coordinator-b")
    replicas = [start_service("coordinator", GODWIT_COORDINATOR_ID=name) for name in names]
    hosts = await world.host(), await world.host()
    machines = [await world.machine(hosts[0]) for _ in range(6)]

    async def moved(machine: str) -> Watch:
        migration = await world.request(machine, hosts[1])
        async with world.watch(migration) as watch:
            await watch.until(ev.PreparationOrdered)
            await world.prepare(migration, hosts[1])
            await watch.until(ev.MigrationStarted)
            await changed_again_and_again(world, watch, migration)
            await world.move(migration, *hosts)
            await watch.until(ev.MigrationEnded)
        return watch

    for watch in await asyncio.gather(*map(moved, machines)):
        assert watch.all_of(ev.MigrationEnded)[0].outcome is Outcome.COMPLETED
        orders = Counter({bev.BandwidthOrdered.TYPE: len(BANDWIDTHS)})
        assert decisions(watch) == EACH_ONCE + orders
        assert_chains(watch)
    for machine in machines:
        await world.wait_claim_free(machine)
    assert [replica.stop() for replica in replicas] == [0, 0]


async def test_two_coordinators_let_one_of_two_migrations_through(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    start_service("gpu_state_tracker")
    for name in ("coordinator-a", "coordinator-b"):
        start_service("coordinator", GODWIT_COORDINATOR_ID=name)
    source, *destinations = [await world.host() for _ in range(3)]
    machine = await world.machine(source)
    migrations = await asyncio.gather(*(world.request(machine, host) for host in destinations))
    outcomes = []
    for migration, destination in zip(migrations, destinations, strict=True):
        async with world.watch(migration) as watch:
            decided = await first_of(watch, ev.PreparationOrdered, ev.MigrationEnded)
            if isinstance(decided, ev.PreparationOrdered):
                outcomes.append(destination)
            else:
                outcomes.append(decided.reason)
    assert AbortReason.ALREADY_MIGRATING in outcomes
    assert len(set(outcomes) & set(destinations)) == 1


async def first_of(watch: Watch, *kinds: type[Event]) -> Event:
    while True:
        for kind in kinds:
            if events := watch.all_of(kind):
                return events[0]
        await watch.until(Event, times=len(watch.seen) + 1)


async def test_a_coordinator_that_slept_through_the_start_cannot_end_the_migration(
    own_world: World, start_service: StartService
) -> None:
    """It wakes with a deadline that has passed, in a phase that is long over."""
    world = own_world
    start_service("gpu_state_tracker")
    sleeper = start_service("coordinator", GODWIT_COORDINATOR_ID="sleeper")
    hosts = await world.host(), await world.host()
    machine = await world.machine(hosts[0])
    deadline_s = 4.0
    expires_s = time.monotonic() + deadline_s
    migration = await world.request(machine, hosts[1], deadline_s=deadline_s)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        sleeper.freeze()
        start_service("coordinator", GODWIT_COORDINATOR_ID="waker")
        await world.prepare(migration, hosts[1])
        await watch.until(ev.MigrationStarted)
        await asyncio.sleep(expires_s - time.monotonic())  # the deadline is a time, not an event
        sleeper.thaw()
        await world.move(migration, *hosts)
        ended = await watch.until(ev.MigrationEnded)
        await follow_up(world, machine, hosts[0])
        assert sleeper.stop() == 0
    assert ended.outcome is Outcome.COMPLETED
    assert decisions(watch) == EACH_ONCE


async def test_what_a_dead_coordinator_claimed_for_a_migration_that_ended_is_free(
    own_world: World, start_service: StartService
) -> None:
    """A claim that cannot be read is in nobody's way."""
    world = own_world
    ended, open_one = (Scope.of_migration(name, f"m-{name}") for name in ("ended", "open"))
    for scope in (ended, open_one):
        claim = register.Claim(machine=scope.machine, migration=scope.id)
        data = register.encode_claim(claim)
        await world.log.append(subjects.claim(scope.machine), data, message_id=scope.id)
    await world.log.append(subjects.claim("m-broken"), b"\xc1", message_id="broken")
    end = ev.MigrationEnded(outcome=Outcome.COMPLETED)
    await world.write(Lane.COORDINATOR, "coordinator-of-old", ended, end)
    start_service("coordinator")
    await world.wait_claim_free(ended.machine)
    assert await world.claimed_by(open_one.machine) == open_one.id
