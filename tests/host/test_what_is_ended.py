"""Which VMM a host ends when its part in a migration is over: that one, and no other of the name.

The shells of both roles on a host of which nothing is real but the VMM that is found there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from unittest.mock import Mock

import pytest

from godwit.destination_host.arrival import Arrival
from godwit.host.facts import FactWriter
from godwit.hypervisor.port import VmmState, VmmStatus
from godwit.source_host.departure import Departure
from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination, source
from godwit_protocol.roles.recovery import recover_destination, recover_source

SPEC = MachineSpec(name="m", guest="godwit.guests.memhog:Memhog", ram_bytes=4096)
LEFT_IN = 3
"""The epoch in which the machine was found where it was."""


@dataclass
class FoundVmm:
    """Who is ended must have asked what it is, just now."""

    state: VmmState
    epoch: int
    is_ended: bool = False

    async def status(self) -> VmmStatus:
        return VmmStatus(SPEC, self.state, self.epoch, pid=1, steps=0, failure="")

    async def stop(self) -> None:
        self.is_ended = True


def host_with(vmm: FoundVmm) -> Mock:
    host = Mock()
    host.name = "here"
    host.clock.monotonic_ns = time.monotonic_ns

    async def find(_name: str) -> FoundVmm:
        return vmm

    host.hypervisor.find = find
    return host


def standing() -> reg.RegisterView:
    record = reg.RegisterRecord(
        value=reg.RegisterValue.STARTED, machine="m", owner="here", epoch=LEFT_IN
    )
    return reg.RegisterView(record, 1)


@pytest.mark.parametrize(
    ("epoch", "is_ended"), [(LEFT_IN, True), (LEFT_IN - 1, True), (LEFT_IN + 2, False), (0, False)]
)
async def test_a_source_ends_only_what_the_machine_left(epoch: int, is_ended: bool) -> None:
    """One of a later epoch has come back meanwhile; one without has just been prepared."""
    vmm = FoundVmm(VmmState.PAUSED if epoch else VmmState.GATED, epoch)
    started = ev.MigrationStarted(
        source="here",
        destination="there",
        address="192.0.2.2",
        port=1,
        token=b"t",
        limits=ev.Limits(),
        verify=ev.Verify.OFF,
        register_epoch=LEFT_IN,
    )
    begun, _ = source.begin(started, "m", standing(), migration="now", now_ns=0)
    released = recover_source(begun, {ev.MachineReleased.TYPE}, 0, image_left=True)
    departure = Departure(host_with(vmm), "now", "m", LEFT_IN, Mock(FactWriter), "there", Mock())
    last = await departure.run(*released)
    assert last.phase is source.Phase.RELEASED
    assert vmm.is_ended is is_ended


@pytest.mark.parametrize(
    ("state", "is_ended"),
    [
        (VmmState.GATED, True),
        (VmmState.LOADED, True),
        (VmmState.RUNNING, False),
        (VmmState.PAUSED, False),
    ],
)
async def test_a_restarted_destination_ends_only_what_never_ran(
    state: VmmState, is_ended: bool
) -> None:
    """It knows its own VMM no more: one that runs or ran here came by another migration."""
    vmm = FoundVmm(state, 0 if is_ended else LEFT_IN)
    ordered = ev.PreparationOrdered(
        spec=SPEC,
        source="there",
        destination="here",
        placements=(),
        limits=ev.Limits(),
        verify=ev.Verify.OFF,
        register_epoch=LEFT_IN,
    )
    begun, _ = destination.begin(ordered, standing(), migration="now", now_ns=0)
    discarding = recover_destination(begun, frozenset(), 0, machine_runs=False, image_loaded=False)
    arrival = Arrival(host_with(vmm), "now", SPEC, Mock(), Mock(), "there", Mock())
    last = await arrival.run(*discarding)
    assert last.phase is destination.Phase.DISCARDED
    assert vmm.is_ended is is_ended
