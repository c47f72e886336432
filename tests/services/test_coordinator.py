"""The coordinator as its neighbours see it: requests and facts in the log, decisions in the log."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from godwit.destination_host.link_offers import LinkOffers
from godwit.runtime.lane import Scope
from godwit_protocol import register, subjects
from godwit_protocol.compatibility.verdict import Check, Status
from godwit_protocol.events import CHAIN_START, Lane, stored_hash
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.loss import LossOrdered
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.facts import DeclaredFacts, Setting
from godwit_protocol.ledger import EntryKind

from .world import Watch, World, destination_inbox, source_inbox

H100 = "H100-80GB"
WHOLE = "7g.80gb"


async def prepared(world: World, watch: Watch, migration: Scope, destination: str) -> None:
    await watch.until(ev.PreparationOrdered)
    await world.prepare(migration, destination)


async def aborted(watch: Watch, reason: AbortReason) -> ev.MigrationEnded:
    ended = await watch.until(ev.MigrationEnded)
    assert ended.outcome is Outcome.ABORTED
    assert ended.reason is reason
    return ended


async def test_a_migration_goes_from_request_to_completed(world: World) -> None:
    source, destination = await world.host(H100), await world.host(H100)
    machine = await world.machine(source, WHOLE)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await prepared(world, watch, migration, destination)
        started = await watch.until(ev.MigrationStarted)
        assert (started.address, started.port, started.token) == ("::1", 4242, b"secret")
        assert await world.claimed_by(machine) == migration.id
        await world.move(migration, source, destination)
        ended = await watch.until(ev.MigrationEnded)
        await watch.until(rev.ReservationConfirmed)
    assert ended.outcome is Outcome.COMPLETED
    assert not watch.all_of(ev.AbortOrdered)
    await world.wait_claim_free(machine)

    order = destination_inbox(destination, migration, Lane.COORDINATOR, ev.PreparationOrdered)
    assert watch.subject_of(ev.PreparationOrdered) == order
    start = source_inbox(source, migration, Lane.COORDINATOR, ev.MigrationStarted)
    assert watch.subject_of(ev.MigrationStarted) == start


async def test_the_reservation_follows_the_machine(world: World) -> None:
    source, destination = await world.host(H100), await world.host(H100)
    machine = await world.machine(source, WHOLE)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await prepared(world, watch, migration, destination)
        await watch.until(ev.MigrationStarted)
        await world.move(migration, source, destination)
        await watch.until(ev.MigrationEnded)
    there = await world.wait_ledger(destination, EntryKind.CONFIRMED, migration.id)
    assert there.holdings[migration.id].machine == machine
    async with world.watch(Scope.of_machine(machine)) as life:
        released = await life.until(rev.ReservationReleased)
    here = await world.wait_ledger(source, EntryKind.RELEASED, released.reservation)
    assert not here.holdings


async def test_every_decision_names_its_cause_and_the_lane_is_a_chain(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await prepared(world, watch, migration, destination)
        await watch.until(ev.MigrationStarted)
        await world.move(migration, source, destination)
        await watch.until(ev.MigrationEnded)
    ids = {seen.recorded.envelope.id: seen.recorded.envelope.type for seen in watch.seen}
    lane = watch.of_lane(Lane.COORDINATOR)
    causes = {seen.recorded.envelope.type: ids[seen.recorded.envelope.causation] for seen in lane}
    assert causes == {
        "estimate_made": "migration_requested",
        "reservation_requested": "migration_requested",
        "preparation_ordered": "reservation_granted",
        "start_decided": "destination_prepared",
        "migration_started": "start_decided",
        "migration_ended": "machine_released",
    }
    hashes = [CHAIN_START, *(stored_hash(seen.stored.data) for seen in lane)]
    for number, seen in enumerate(lane):
        assert seen.recorded.envelope.lane_sequence == number + 1
        assert seen.recorded.envelope.prev_hash == hashes[number]
        assert seen.recorded.envelope.correlation == migration.id
        assert seen.recorded.envelope.machine == machine


@pytest.mark.parametrize("machine", ["nobody", "no.such*name", ""])
async def test_an_unknown_machine_is_refused(world: World, machine: str) -> None:
    migration = await world.request(machine, await world.host())
    async with world.watch(migration) as watch:
        await aborted(watch, AbortReason.MACHINE_UNKNOWN)
    assert not watch.all_of(rev.ReservationRequested)


@pytest.mark.parametrize("destination", ["nowhere", "no>where"])
async def test_an_unknown_destination_is_refused(world: World, destination: str) -> None:
    machine = await world.machine(await world.host())
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await aborted(watch, AbortReason.HOST_UNKNOWN)


async def test_a_machine_that_is_there_already_is_not_moved(world: World) -> None:
    host = await world.host()
    migration = await world.request(await world.machine(host), host)
    async with world.watch(migration) as watch:
        await aborted(watch, AbortReason.ALREADY_THERE)


async def test_a_full_gpu_refuses_the_second_machine(world: World) -> None:
    source, destination = await world.host(H100, H100), await world.host(H100)
    machines = [await world.machine(source, WHOLE) for _ in range(2)]
    first = await world.request(machines[0], destination)
    async with world.watch(first) as watch:
        await watch.until(ev.PreparationOrdered)
    second = await world.request(machines[1], destination)
    async with world.watch(second) as watch:
        ended = await aborted(watch, AbortReason.RESERVATION_REFUSED)
        assert WHOLE in ended.message
        assert not watch.all_of(ev.PreparationOrdered)
    await world.wait_claim_free(machines[1])


async def test_of_two_migrations_of_one_machine_one_is_refused(world: World) -> None:
    source, destination, other = [await world.host() for _ in range(3)]
    machine = await world.machine(source)
    first = await world.request(machine, destination)
    async with world.watch(first) as watch:
        await watch.until(ev.PreparationOrdered)
        second = await world.request(machine, other)
        async with world.watch(second) as second_watch:
            ended = await aborted(second_watch, AbortReason.ALREADY_MIGRATING)
        assert first.id in ended.message
        assert await world.claimed_by(machine) == first.id
        await world.prepare(first, destination)
        await watch.until(ev.MigrationStarted)
        await world.move(first, source, destination)
        assert (await watch.until(ev.MigrationEnded)).outcome is Outcome.COMPLETED
    third = await world.request(machine, other)
    async with world.watch(third) as watch:
        assert (await watch.until(ev.PreparationOrdered)).source == destination


async def test_a_destination_that_refuses_ends_it(world: World) -> None:
    source, destination = await world.host(H100), await world.host(H100)
    machine = await world.machine(source, WHOLE)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        refused = ev.PreparationRefused(message="no memory")
        await world.write(Lane.DESTINATION, destination, migration, refused)
        ended = await aborted(watch, AbortReason.DESTINATION_REFUSED)
        assert ended.message == "no memory"
        await watch.until(rev.ReservationReleased)
    await world.wait_claim_free(machine)
    assert not (await world.wait_ledger(destination, EntryKind.RELEASED, migration.id)).holdings


async def test_a_cancel_before_the_start_ends_it_and_tells_the_destination(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        await world.cancel(migration)
        await aborted(watch, AbortReason.CANCELLED)
        await watch.until(ev.AbortOrdered)
        await watch.until(rev.ReservationReleased)
    told = destination_inbox(destination, migration, Lane.COORDINATOR, ev.AbortOrdered)
    assert watch.subject_of(ev.AbortOrdered) == told
    assert not watch.all_of(ev.MigrationStarted)


async def test_a_cancel_after_the_start_is_the_sources_to_carry_out(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await prepared(world, watch, migration, destination)
        await watch.until(ev.MigrationStarted)
        await world.cancel(migration)
        await world.cancel(migration)
        await watch.until(ev.AbortOrdered)
        assert not watch.all_of(ev.MigrationEnded)
        told = source_inbox(source, migration, Lane.COORDINATOR, ev.AbortOrdered)
        assert watch.subject_of(ev.AbortOrdered) == told
        await world.abandon(migration, source, AbortReason.CANCELLED)
        await aborted(watch, AbortReason.CANCELLED)
    assert len(watch.all_of(ev.AbortOrdered)) == 1


async def test_a_machine_is_not_moved_as_what_it_was_in_an_earlier_life(world: World) -> None:
    """Its host writes the register, and only then that it runs, and as what."""
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    first = await world.log.last(subjects.register(machine))
    assert first is not None
    stopped = register.stopped(register.decode(first.data))
    anew = register.started(machine, source, stopped, start="the second")
    data = register.encode(anew)
    await world.log.append(subjects.register(machine), data, message_id=anew.nonce + machine)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await aborted(watch, AbortReason.MACHINE_UNKNOWN)


async def test_a_machine_that_moved_in_spite_of_a_cancel_has_moved(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await prepared(world, watch, migration, destination)
        await watch.until(ev.MigrationStarted)
        await world.cancel(migration)
        await watch.until(ev.AbortOrdered)
        await world.move(migration, source, destination)
        assert (await watch.until(ev.MigrationEnded)).outcome is Outcome.COMPLETED


async def test_a_destination_that_stays_silent_is_given_up_at_the_deadline(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    migration = await world.request(machine, destination, deadline_s=1)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        await watch.until(ev.AbortOrdered)
        await aborted(watch, AbortReason.DEADLINE_PASSED)
    await world.wait_claim_free(machine)


async def test_the_claim_of_an_ended_migration_is_taken_over(world: World) -> None:
    """Its coordinator died between writing the end and freeing the claim."""
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    dead = Scope.of_migration("018f0000-0000-7000-8000-" + machine[2:14], machine)
    claim = register.Claim(machine=machine, migration=dead.id)
    await world.log.append(
        subjects.claim(machine), register.encode_claim(claim), message_id=dead.id
    )
    ended = ev.MigrationEnded(outcome=Outcome.ABORTED, reason=AbortReason.CANCELLED)
    await world.write(Lane.COORDINATOR, "coordinator-of-old", dead, ended)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
    assert await world.claimed_by(machine) == migration.id


async def test_bytes_that_are_no_event_harm_nobody(world: World) -> None:
    source, destination = await world.host(), await world.host()
    machine = await world.machine(source)
    broken = subjects.migration("broken", Lane.OPERATOR, ev.MigrationRequested.TYPE)
    await world.log.append(broken, b"\xc1 not an event", message_id=f"broken-{machine}")
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)


async def test_hosts_that_do_not_go_together_are_refused_before_anything_moves(
    world: World,
) -> None:
    off = DeclaredFacts(ecc=Setting.OFF, driver="535.0")
    source, destination = await world.host(H100), await world.host(H100, declared=off)
    machine = await world.machine(source, WHOLE)
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        ended = await aborted(watch, AbortReason.INCOMPATIBLE)
    (decided,) = watch.all_of(ev.StartDecided)
    refusing = {verdict.check: verdict.status for verdict in decided.refusals}
    assert refusing == {Check.ECC_MODE: Status.REFUSED, Check.DRIVER: Status.REFUSED}
    assert f"GPU 0 of {source} (SIMULATED) has ECC on, GPU 0 of {destination}" in ended.message
    assert not watch.all_of(rev.ReservationRequested)
    assert await world.claimed_by(machine) == ""


async def test_a_gpu_that_does_not_go_with_the_source_s_is_passed_over(world: World) -> None:
    source, destination = await world.host(H100), await world.host(H100, H100)
    announced = await world.announced(destination)
    other, alike = announced.gpus
    assert other.facts is not None
    changed = msgspec.structs.replace(
        other, facts=msgspec.structs.replace(other.facts, ecc=Setting.OFF)
    )
    await world.announce(destination, msgspec.structs.replace(announced, gpus=(changed, alike)))
    migration = await world.request(await world.machine(source, WHOLE), destination)
    async with world.watch(migration) as watch:
        assert (await watch.until(rev.ReservationRequested)).gpus == (1,)
        assert [seat.gpu for seat in (await watch.until(rev.ReservationGranted)).placements] == [1]
        await world.cancel(migration)
        await watch.until(ev.MigrationEnded)


@pytest.mark.parametrize("profiles", [(), (WHOLE,)])
async def test_a_host_that_tells_no_facts_takes_only_machines_without_a_vgpu(
    world: World, profiles: tuple[str, ...]
) -> None:
    source, destination = await world.host(H100), await world.host(H100)
    announced = await world.announced(destination)
    gpus = tuple(msgspec.structs.replace(gpu, facts=None) for gpu in announced.gpus)
    await world.announce(destination, msgspec.structs.replace(announced, gpus=gpus, facts=None))
    migration = await world.request(await world.machine(source, *profiles), destination)
    async with world.watch(migration) as watch:
        decided = await watch.until(ev.StartDecided if profiles else ev.PreparationOrdered)
        await world.cancel(migration)
        await watch.until(ev.MigrationEnded)
    if isinstance(decided, ev.StartDecided):
        assert decided.reason is AbortReason.INCOMPATIBLE
        assert all(item.status is Status.UNKNOWN for item in decided.refusals)


async def test_a_machine_that_is_lost_with_both_hosts_is_given_up_once_neither_answers(
    world: World,
) -> None:
    source, destination = await world.host(H100), await world.host(H100)
    machine = await world.machine(source, WHOLE)
    migration = await world.request(machine, destination)
    order = LossOrdered(requested_by="ada@desk")
    async with world.watch(migration) as watch:
        await prepared(world, watch, migration, destination)
        await watch.until(ev.MigrationStarted)
        alive = [
            asyncio.create_task(LinkOffers(world.log, host, "localhost", 4242).run())
            for host in (source, destination)
        ]
        await world.write(Lane.OPERATOR, "test", migration, order)
        refused = await watch.until(ev.RunOrderRefused)
        for task in alive:
            task.cancel()
        await world.write(Lane.OPERATOR, "test", migration, order)
        ended = await aborted(watch, AbortReason.MACHINE_FAILED)
    assert "answers: it is not off" in refused.message
    fenced = watch.all_of(ev.HostFenced)
    assert {proof.target for proof in fenced} == {source, destination}
    assert {proof.vouched_by for proof in fenced} == {"ada@desk"}
    standing = await world.log.last(subjects.register(machine))
    assert standing is not None
    record = register.decode(standing.data)
    assert (record.value, record.owner) == (register.RegisterValue.LOST, "")
    assert record.epoch == ended.lost_epoch == 3
    await world.wait_ledger(destination, EntryKind.RELEASED, migration.id)
    async with world.watch(Scope.of_machine(machine)) as life:
        left = await life.until(rev.ReservationReleased)
    assert left.why == f"machine {machine} is lost"
    await world.wait_claim_free(machine)
