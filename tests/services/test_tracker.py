"""The tracker as its neighbours see it: requests and ends go in, lines and answers come out."""

from __future__ import annotations

import pytest

from godwit.runtime.lane import Scope
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.ledger import EntryKind, RefusalCode
from godwit_protocol.placement.policy import DeviceGroup, Policy

from .world import World, source_inbox

H100 = "H100-80GB"


async def test_a_start_is_granted_confirmed_and_released(world: World, unique_name: str) -> None:
    host = await world.host(H100)
    scope = Scope.of_machine(unique_name)
    reservation = await world.ask_capacity(host, unique_name, "3g.40gb", "3g.40gb")
    async with world.watch(scope) as watch:
        granted = await watch.until(rev.ReservationGranted)
        assert granted.reservation == reservation
        assert [placed.profile for placed in granted.placements] == ["3g.40gb", "3g.40gb"]
        told = source_inbox(host, scope, Lane.TRACKER, rev.ReservationGranted)
        assert watch.subject_of(rev.ReservationGranted) == told
    held = await world.wait_ledger(host, EntryKind.HELD, reservation)
    assert held.holdings[reservation].machine == unique_name


@pytest.mark.parametrize(
    ("models", "profiles", "code"),
    [
        ((), ("3g.40gb",), RefusalCode.NO_GPU),
        (("L40S-48GB",), ("3g.40gb",), RefusalCode.MODEL_MISMATCH),
        ((H100,), ("7g.80gb", "1g.10gb"), RefusalCode.DOES_NOT_FIT),
        ((H100,), ("9g.900gb",), RefusalCode.PROFILE_UNKNOWN),
    ],
)
async def test_what_does_not_fit_is_refused_with_its_reason(
    world: World,
    unique_name: str,
    models: tuple[str, ...],
    profiles: tuple[str, ...],
    code: RefusalCode,
) -> None:
    host = await world.host(*models)
    reservation = await world.ask_capacity(host, unique_name, *profiles)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        refused = await watch.until(rev.ReservationRefused)
    assert (refused.reservation, refused.target) == (reservation, host)
    assert refused.code == code
    assert refused.message


@pytest.mark.parametrize("target", ["nowhere", "no.where>"])
async def test_an_unknown_host_has_no_capacity(world: World, unique_name: str, target: str) -> None:
    host = await world.host()
    request = rev.ReservationRequested(
        reservation=f"r-{unique_name}",
        machine=unique_name,
        target=target,
        profiles=(),
        framebuffer_bytes=(),
    )
    scope = Scope.of_machine(unique_name)
    await world.write(Lane.SOURCE, host, scope, request)
    async with world.watch(scope) as watch:
        refused = await watch.until(rev.ReservationRefused)
    assert refused.code == RefusalCode.HOST_UNKNOWN


async def test_a_machine_without_vgpus_is_granted_nothing(world: World, unique_name: str) -> None:
    await world.ask_capacity(await world.host(), unique_name)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        assert (await watch.until(rev.ReservationGranted)).placements == ()


async def test_a_refused_start_frees_its_capacity(world: World, unique_name: str) -> None:
    host = await world.host(H100)
    scope = Scope.of_machine(unique_name)
    start = await world.ask_capacity(host, unique_name, "7g.80gb")
    async with world.watch(scope) as watch:
        await watch.until(rev.ReservationGranted)
        refused = mev.MachineStartRefused(start=start, code="guest", message="it raised")
        await world.write(Lane.SOURCE, host, scope, refused)
        released = await watch.until(rev.ReservationReleased)
    assert released.reservation == start
    assert not (await world.wait_ledger(host, EntryKind.RELEASED, start)).holdings


@pytest.mark.parametrize(
    ("order", "starts", "in_the_way"),
    [
        (("1g.10gb", "1g.10gb", "3g.40gb"), [6, 4, 0], ["2"]),
        (("3g.40gb", "1g.10gb", "1g.10gb"), [4, 0, 1], ["1", "2"]),
    ],
)
async def test_a_fourth_machine_is_told_which_would_have_to_move(
    world: World,
    unique_name: str,
    order: tuple[str, ...],
    starts: list[int],
    in_the_way: list[str],
) -> None:
    host = await world.host(H100)
    found = []
    for index, profile in enumerate(order):
        name = f"{unique_name}-{index}"
        await world.ask_capacity(host, name, profile)
        async with world.watch(Scope.of_machine(name)) as watch:
            found += (await watch.until(rev.ReservationGranted)).placements
    assert [placed.start for placed in found] == starts
    await world.ask_capacity(host, unique_name, "4g.40gb")
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        refused = await watch.until(rev.ReservationRefused)
    assert refused.code == RefusalCode.DOES_NOT_FIT
    named = [index for index in "012" if f"of {unique_name}-{index} " in refused.message]
    assert named == in_the_way


@pytest.mark.parametrize(
    ("policy", "group", "gpus"),
    [
        (Policy.CONSOLIDATE, DeviceGroup.NONE, {0}),
        (Policy.SPREAD, DeviceGroup.NONE, {1, 2}),
        (Policy.SPREAD, DeviceGroup.ONE_GPU, {1}),
        (Policy.CONSOLIDATE, DeviceGroup.NVLINK, {0, 1}),
    ],
)
async def test_a_request_says_where_its_vgpus_go(
    world: World, unique_name: str, policy: Policy, group: DeviceGroup, gpus: set[int]
) -> None:
    host = await world.host(H100, H100, H100, linked=True)
    await world.machine(host, "1g.10gb")
    pair = ("1g.10gb", "1g.10gb")
    await world.ask_capacity(host, unique_name, *pair, policy=policy, group=group)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        granted = await watch.until(rev.ReservationGranted)
    assert {placed.gpu for placed in granted.placements} == gpus


async def test_a_migration_keeps_the_machines_policy(world: World) -> None:
    source, destination = await world.host(H100), await world.host(H100, H100)
    await world.machine(destination, "1g.10gb")
    spreading = await world.machine(source, "1g.10gb", policy=Policy.SPREAD)
    migration = await world.request(spreading, destination)
    async with world.watch(migration) as watch:
        granted = await watch.until(rev.ReservationGranted)
        await world.cancel(migration)
        await watch.until(ev.MigrationEnded)
    assert [placed.gpu for placed in granted.placements] == [1]


async def test_a_host_that_asks_again_is_answered_again(world: World, unique_name: str) -> None:
    """It died while it waited: what came meanwhile may be lost on it."""
    host = await world.host(H100)
    async with world.watch(Scope.of_machine(unique_name)) as watch:
        start = await world.ask_capacity(host, unique_name, "7g.80gb")
        first = await watch.until(rev.ReservationGranted)
        await world.ask_capacity(host, unique_name, "7g.80gb", start=start)
        assert await watch.until(rev.ReservationGranted, times=2) == first
        refused = await world.ask_capacity(host, unique_name, "1g.10gb")
        await watch.until(rev.ReservationRefused)
        await world.ask_capacity(host, unique_name, "1g.10gb", start=refused)
        again = await watch.until(rev.ReservationRefused, times=2)
    assert again.reservation == refused
    assert len((await world.wait_ledger(host, EntryKind.REFUSED, refused)).holdings) == 1


async def test_a_machine_stopped_and_started_again_is_answered_again(world: World) -> None:
    host = await world.host(H100)
    machine = await world.machine(host, "7g.80gb")
    scope = Scope.of_machine(machine)
    async with world.watch(scope) as watch:
        await world.write(Lane.SOURCE, host, scope, mev.MachineStopped())
        await watch.until(rev.ReservationReleased)
        again = await world.ask_capacity(host, machine, "7g.80gb")
        granted = await watch.until(rev.ReservationGranted, times=2)
        assert granted.reservation == again
        subjects_used = {seen.stored.subject for seen in watch.of_lane(Lane.TRACKER)}
    assert len(subjects_used) == 3


async def test_a_request_for_a_migration_that_has_ended_is_not_granted(world: World) -> None:
    """A coordinator that was paused may ask for it long after another has ended it."""
    source, destination = await world.host(H100), await world.host(H100)
    machine = await world.machine(source, "7g.80gb")
    migration = await world.request(machine, destination)
    async with world.watch(migration) as watch:
        await watch.until(ev.PreparationOrdered)
        await world.cancel(migration)
        await watch.until(rev.ReservationReleased)
    late = rev.ReservationRequested(
        reservation=migration.id,
        machine=machine,
        target=destination,
        profiles=("7g.80gb",),
        framebuffer_bytes=(4096,),
    )
    await world.write(Lane.COORDINATOR, "coordinator-late", migration, late)
    other = await world.ask_capacity(destination, f"x{machine}", "7g.80gb")
    picture = await world.wait_ledger(destination, EntryKind.HELD, other)
    assert set(picture.holdings) == {other}


async def test_a_request_of_which_no_line_could_be_read_again_leaves_the_ledger_as_it_is(
    world: World, unique_name: str
) -> None:
    """A line is bounded, and one that cannot be read would end the ledger for every replica."""
    host = await world.host(H100)
    scope = Scope.of_machine(unique_name)
    for machine, reservation in ((unique_name, "r" * 70_000), ("m" * 70_000, "too-long-a-name")):
        malformed = rev.ReservationRequested(
            reservation=reservation,
            machine=machine,
            target=host,
            profiles=("3g.40gb",),
            framebuffer_bytes=(1,),
        )
        await world.write(Lane.SOURCE, host, scope, malformed)
    reservation = await world.ask_capacity(host, unique_name, "3g.40gb")
    await world.wait_ledger(host, EntryKind.HELD, reservation)
