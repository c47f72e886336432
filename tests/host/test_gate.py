"""Opening the gate: a machine that may run already is not run twice, nor given up.

The destination's shell on a host of which nothing is real; its VMM refuses, as a real one does, to
open a gate that is open.
"""

from __future__ import annotations

import time
from unittest.mock import AsyncMock, Mock

import pytest

from godwit.destination_host.arrival import Arrival
from godwit.hypervisor.port import VmmState, VmmStatus
from godwit_protocol import register as reg
from godwit_protocol.errors import ConflictError, DeadlineError
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles import destination
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination_state import Phase
from godwit_protocol.roles.recovery import recover_destination
from orders import preparation

SPEC = MachineSpec(name="m", guest="godwit.guests.memhog:Memhog", ram_bytes=4096)
STARTED = reg.started("m", "host-1", None)
UNCLAIMED = reg.RegisterView(STARTED, 1)
CLAIMED = reg.RegisterView(reg.moved(STARTED, "host-2", "now"), 2)


class GatedVmm:
    """``obeys_silently``: for each time that it gives no answer, whether it opens its gate."""

    def __init__(self, state: VmmState = VmmState.LOADED, *obeys_silently: bool) -> None:
        self.commands: list[str] = []
        self._state = state
        self._obeys_silently = list(obeys_silently)

    async def status(self) -> VmmStatus:
        self.commands.append("status")
        return VmmStatus(SPEC, self._state, epoch=0, pid=1, steps=0, failure="")

    async def open_gate(self, epoch: int) -> int:
        self.commands.append(f"open_gate {epoch}")
        if self._state is not VmmState.LOADED:
            raise ConflictError(f"machine m is {self._state}: no OpenGate now")
        silent = bool(self._obeys_silently)
        if not silent or self._obeys_silently.pop(0):
            self._state = VmmState.RUNNING
        if silent:
            raise DeadlineError("the VMM is silent")
        return time.monotonic_ns()


async def activated(vmm: GatedVmm, standing: reg.RegisterView) -> ev.MachineActivated:
    """What a destination says that has journaled its GO, and goes on with what the register holds:
    it claims the machine first, unless a former life of it has.
    """
    host, facts = Mock(), Mock(told=AsyncMock())
    host.name = "host-2"
    host.clock.monotonic_ns = time.monotonic_ns
    host.hypervisor.find = AsyncMock(return_value=vmm)
    won = inp.CasSettled(won=True, standing=CLAIMED)
    host.registers.compare_and_set = AsyncMock(return_value=won)
    begun, _ = destination.begin(preparation(SPEC), standing, migration="now", now_ns=0)
    facts_before = {ev.ImageStaged.TYPE, ev.ActivationStarted.TYPE}
    recovered = recover_destination(begun, facts_before, 0, machine_runs=False, image_loaded=True)
    arrival = Arrival(host, "now", SPEC, facts, Mock(), "host-1", Mock())
    assert (await arrival.run(*recovered)).phase is Phase.ACTIVE
    (told,) = [call.args[0].event for call in facts.append.call_args_list]
    assert isinstance(told, ev.MachineActivated)
    return told


@pytest.mark.parametrize(
    ("obeys_silently", "asked"),
    [
        ((), ["open_gate 2"]),
        ((True,), ["open_gate 2", "status"]),
        ((False,), ["open_gate 2", "status", "open_gate 2"]),
        ((False, True), ["open_gate 2", "status", "open_gate 2", "status"]),
    ],
)
async def test_a_vmm_that_was_silent_is_asked_whether_it_runs(
    obeys_silently: tuple[bool, ...], asked: list[str]
) -> None:
    """One that has not been asked yet cannot run: no stun waits for that answer."""
    vmm = GatedVmm(VmmState.LOADED, *obeys_silently)
    await activated(vmm, UNCLAIMED)
    assert vmm.commands == ["status", *asked], "the first: whether it lives, before it is claimed"


@pytest.mark.parametrize(
    ("state", "asked"),
    [(VmmState.RUNNING, ["status"]), (VmmState.LOADED, ["status", "open_gate 2"])],
)
async def test_a_gate_that_a_former_life_may_have_opened_is_looked_at_first(
    state: VmmState, asked: list[str]
) -> None:
    vmm = GatedVmm(state)
    await activated(vmm, CLAIMED)
    assert vmm.commands == asked


@pytest.mark.parametrize(
    ("standing", "state"),
    [
        (UNCLAIMED, VmmState.LOADED),
        (CLAIMED, VmmState.LOADED),
        (CLAIMED, VmmState.RUNNING),
    ],
)
async def test_ownership_has_a_time_also_if_a_former_life_took_it(
    standing: reg.RegisterView, state: VmmState
) -> None:
    """Else the machine would seem to have waited for its first step for as long as its host is up.
    It is then the time at which this life knows of it.
    """
    began_ns = time.monotonic_ns()
    told = await activated(GatedVmm(state), standing)
    assert began_ns <= told.owned_ns <= told.first_step_ns
