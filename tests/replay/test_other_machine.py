"""Two coordinators that found different machines of one name: it was started anew in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.events.reservation import Placement
from godwit_protocol.machine import MachineSpec, VGpuSpec
from godwit_protocol.placement.policy import DeviceGroup
from godwit_protocol.replay.verification import verify
from godwit_protocol.roles.effects import Address, Service
from godwit_protocol.stored import Stored

CLOCK = SystemClock()
THERE = Address("host-2", Service.DESTINATION_HOST)
OTHER = "the machine has been started anew, with other vGPUs than are reserved"
GIVEN_UP = {"reason": AbortReason.SUPERSEDED, "message": OTHER}


class Told(NamedTuple):
    lane: Lane
    writer: str
    event: Callable[[str], Event]
    to: Address | None = None


def spec(profile: str, group: DeviceGroup = DeviceGroup.NONE) -> MachineSpec:
    vgpus = (VGpuSpec(profile, 4096),) if profile else ()
    return MachineSpec(name="m", guest="g:G", ram_bytes=4096, vgpus=vgpus, device_group=group)


def placed(profile: str) -> tuple[Placement, ...]:
    return (Placement(gpu=0, profile=profile, framebuffer_bytes=8192),) if profile else ()


def reserved(writer: str, profile: str) -> tuple[Told, ...]:
    wanted = spec(profile)

    def requested(migration: str) -> Event:
        return rev.ReservationRequested(
            reservation=migration,
            machine="m",
            target="host-2",
            profiles=tuple(vgpu.profile for vgpu in wanted.vgpus),
            framebuffer_bytes=tuple(vgpu.framebuffer_bytes for vgpu in wanted.vgpus),
        )

    def granted(migration: str) -> Event:
        return rev.ReservationGranted(
            reservation=migration, target="host-2", placements=placed(profile)
        )

    return (
        Told(Lane.COORDINATOR, writer, requested),
        Told(Lane.TRACKER, "tracker-1", granted),
    )


def ordered(writer: str, machine: MachineSpec, epoch: int, profile: str) -> Told:
    order = ev.PreparationOrdered(
        spec=machine,
        source="host-1",
        destination="host-2",
        register_epoch=epoch,
        limits=ev.Limits(),
        verify=ev.Verify.WIRE,
        placements=placed(profile),
    )
    return Told(Lane.COORDINATOR, writer, lambda _: order, THERE)


def said(writer: str, event: Event, to: Address | None = None) -> Told:
    return Told(Lane.COORDINATOR, writer, lambda _: event, to)


def faults(story: Sequence[Told]) -> list[str]:
    migration = CLOCK.new_id()
    scope = Scope.of_migration(migration, "m")
    limits = {"limits": ev.Limits(), "verify": ev.Verify.WIRE}
    asked = ev.MigrationRequested(machine="m", destination="host-2", **limits)
    writers: dict[tuple[Lane, str], LaneWriter] = {}
    messages: list[Stored] = []
    for told in (Told(Lane.OPERATOR, "cli", lambda _: asked), *story):
        fresh = LaneWriter(CLOCK, told.lane, told.writer, scope)
        writer = writers.setdefault((told.lane, told.writer), fresh)
        sealed = writer.seal(told.event(migration), to=told.to)
        writer.advance(sealed)
        place = len(messages) + 1
        messages.append(Stored(sealed.subject, place, CLOCK.wall_ns(), sealed.data, {}))
    return [fault.text for fault in verify(migration, messages).faults]


REFUSED = ev.StartDecided(start=False, **GIVEN_UP)
ENDED = ev.MigrationEnded(outcome=Outcome.ABORTED, **GIVEN_UP)


@pytest.mark.parametrize("profile", ["a", ""])
def test_who_finds_other_vgpus_reserved_gives_up(profile: str) -> None:
    assert faults([*reserved("one", profile), said("two", REFUSED), said("two", ENDED)]) == []


def test_one_orders_before_the_other_gives_up() -> None:
    abort = said("two", ev.AbortOrdered(**GIVEN_UP), THERE)
    order = ordered("one", spec("a"), 1, "a")
    story = [*reserved("one", "a"), order, said("two", REFUSED), abort, said("two", ENDED)]
    assert faults(story) == []


def test_what_is_reserved_may_be_for_a_machine_that_differs_otherwise() -> None:
    other = spec("a", group=DeviceGroup.ONE_GPU)
    assert faults([*reserved("one", "a"), ordered("two", other, 2, "a")]) == []


def test_an_order_of_other_vgpus_than_are_reserved_is_wrong() -> None:
    (fault,) = faults([*reserved("one", "a"), ordered("two", spec("b"), 2, "a")])
    assert "preparation_ordered" in fault
