"""Trackers that die, come back, or stand beside each other."""

from __future__ import annotations

import asyncio

import pytest

from godwit.runtime.lane import Scope
from godwit_protocol import ledger, subjects
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev

from .service_processes import StartService
from .world import Watch, World

pytestmark = pytest.mark.e2e

SMALL = "1g.10gb"
FIT_ON_ONE = 7
REQUESTS = 50


async def answered(watch: Watch) -> rev.ReservationGranted | rev.ReservationRefused:
    while True:
        for seen in watch.seen:
            event = seen.recorded.event
            if isinstance(event, rev.ReservationGranted | rev.ReservationRefused):
                return event
        await watch.until(ev.Event, times=len(watch.seen) + 1)


async def test_two_trackers_never_overbook_a_host(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    for name in ("tracker-a", "tracker-b"):
        start_service("gpu_state_tracker", GODWIT_TRACKER_ID=name)
    host = await world.host("H100-80GB", "H100-80GB")

    async def asked(machine: str) -> bool:
        await world.ask_capacity(host, machine, SMALL)
        async with world.watch(Scope.of_machine(machine)) as watch:
            return isinstance(await answered(watch), rev.ReservationGranted)

    granted = await asyncio.gather(*(asked(f"machine-{number}") for number in range(REQUESTS)))
    assert sum(granted) == 2 * FIT_ON_ONE
    picture = await fold(world, host)
    assert len(picture.holdings) == 2 * FIT_ON_ONE
    assert all(picture.free_bytes(gpu.index) >= 0 for gpu in picture.gpus)
    used = [place.gpu for held in picture.holdings.values() for place in held.placements]
    assert sorted(used) == [0] * FIT_ON_ONE + [1] * FIT_ON_ONE


async def fold(world: World, host: str) -> ledger.HostPicture:
    picture = ledger.HostPicture(host=host)
    async for stored in world.log.read([subjects.ledger(host)]):
        picture = ledger.apply(picture, ledger.decode_entry(stored.data), stored.sequence)
    return picture


async def test_a_tracker_that_comes_back_does_what_was_left_undone(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    tracker = start_service("gpu_state_tracker")
    host = await world.host("H100-80GB")
    stopped = await world.machine(host, "3g.40gb")
    stays = await world.machine(host, "3g.40gb")
    tracker.kill()
    await world.write(Lane.SOURCE, host, Scope.of_machine(stopped), mev.MachineStopped())
    refused_start = await world.ask_capacity(host, "never-started", SMALL)
    refusal = mev.MachineStartRefused(start=refused_start, code="guest", message="it raised")
    await world.write(Lane.SOURCE, host, Scope.of_machine("never-started"), refusal)
    tracker.restart()
    async with world.watch(Scope.of_machine(stopped)) as watch:
        await watch.until(rev.ReservationReleased)
    new = await world.ask_capacity(host, "newcomer", "3g.40gb")
    picture = await world.wait_ledger(host, ledger.EntryKind.HELD, new)
    assert {held.machine for held in picture.holdings.values()} == {stays, "newcomer"}


async def test_a_tracker_that_comes_back_repeats_no_answer(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    tracker = start_service("gpu_state_tracker")
    host, other = await world.host("H100-80GB"), await world.host("H100-80GB")
    machine = await world.machine(host, "3g.40gb")
    for _ in range(2):
        tracker.kill()
        tracker.restart()
        await world.machine(other)
    async with world.watch(Scope.of_machine(machine)) as watch:
        await world.write(Lane.SOURCE, host, Scope.of_machine(machine), mev.MachineStopped())
        await watch.until(rev.ReservationReleased)
    kinds = [seen.recorded.envelope.type for seen in watch.of_lane(Lane.TRACKER)]
    assert kinds == ["reservation_granted", "reservation_confirmed", "reservation_released"]


async def test_a_line_without_its_answer_is_answered_at_the_next_start(
    own_world: World, start_service: StartService
) -> None:
    """The tracker died between writing the line and telling the host."""
    world = own_world
    host = await world.host("H100-80GB")
    start = await world.ask_capacity(host, "machine-1", SMALL)
    line = await write_line(world, host, start, "machine-1")
    start_service("gpu_state_tracker")
    async with world.watch(Scope.of_machine("machine-1")) as watch:
        granted = await watch.until(rev.ReservationGranted)
    assert granted.placements == line.placements
    assert len((await fold(world, host)).holdings) == 1


async def test_a_line_whose_writer_died_is_answered_by_another_replica(
    own_world: World, start_service: StartService
) -> None:
    world = own_world
    tracker = start_service("gpu_state_tracker")
    host = await world.host("H100-80GB")
    await world.machine(host, SMALL)
    tracker.freeze()
    start = await world.ask_capacity(host, "machine-1", SMALL)
    line = await write_line(world, host, start, "machine-1")
    tracker.thaw()
    async with world.watch(Scope.of_machine("machine-1")) as watch:
        granted = await watch.until(rev.ReservationGranted)
    assert granted.placements == line.placements
    assert len((await fold(world, host)).holdings) == 2


async def write_line(world: World, host: str, reservation: str, machine: str) -> ledger.LedgerEntry:
    """What a tracker writes before it answers."""
    line = ledger.LedgerEntry(
        kind=ledger.EntryKind.HELD,
        reservation=reservation,
        machine=machine,
        host=host,
        placements=(rev.Placement(gpu=0, profile=SMALL, framebuffer_bytes=4096),),
    )
    await world.log.append(
        subjects.ledger(host),
        ledger.encode_entry(line),
        message_id=reservation,
        expected_last_sequence=(await fold(world, host)).sequence,
    )
    return line
