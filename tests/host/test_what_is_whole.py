"""Which image a restarted destination takes for whole that its journal does not call so.

The service of a host of which nothing is real but the VMM that is found there, and the journal.
"""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest

from godwit.destination_host.service import DestinationHost
from godwit.host.journals import OpenMigration
from godwit.hypervisor.port import VmmState, VmmStatus
from godwit_protocol import register as reg
from godwit_protocol.events import migration as ev
from godwit_protocol.machine import MachineSpec
from godwit_protocol.roles.destination_state import DestinationState, Phase
from orders import preparation

SPEC = MachineSpec(name="m", guest="godwit.guests.memhog:Memhog", ram_bytes=4096)
PREPARED = ev.DestinationPrepared.TYPE
REFUSED = ev.ImageQuarantined.TYPE


async def recovered(
    monkeypatch: pytest.MonkeyPatch, state: VmmState | None, *facts: str, arriving: str = ""
) -> DestinationState:
    """Where the service goes on. ``arriving``: a machine that a later migration brings here."""
    vmm = Mock(status=AsyncMock(return_value=status_of(state))) if state else None
    host = Mock()
    host.name = "host-2"
    host.clock.monotonic_ns.return_value = 0
    host.hypervisor.find = AsyncMock(return_value=vmm)
    standing = reg.RegisterView(reg.started("m", "host-1", None), 1)
    host.registers.known = AsyncMock(return_value=standing)
    service = DestinationHost(host, Mock(), Mock(), Mock())
    opened = Mock(OpenMigration, migration="now", past_types=frozenset(facts), disk_full="")
    opened.decision = Mock(event=preparation(SPEC))
    monkeypatch.setattr(service._journals, "reopen", AsyncMock(return_value=opened))
    monkeypatch.setattr(service, "_tell_again", AsyncMock())
    if arriving:
        service._arrivals["later"] = Mock(machine=arriving)
    run = Mock()
    monkeypatch.setattr(service, "_run", run)
    await service._recover("now")
    went_on = run.call_args.args[2]
    assert isinstance(went_on, DestinationState)
    return went_on


def status_of(state: VmmState | None) -> VmmStatus | None:
    return VmmStatus(SPEC, state, epoch=0, pid=1, steps=0, failure="") if state else None


async def test_what_the_vmm_has_loaded_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    went_on = await recovered(monkeypatch, VmmState.LOADED, PREPARED)
    assert went_on.phase is Phase.STAGED


@pytest.mark.parametrize("state", [VmmState.GATED, VmmState.PAUSED, VmmState.FAILED, None])
async def test_what_it_has_not_loaded_is_not(
    monkeypatch: pytest.MonkeyPatch, state: VmmState | None
) -> None:
    went_on = await recovered(monkeypatch, state, PREPARED)
    assert went_on.phase is Phase.DISCARDING


async def test_another_migration_s_vmm_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """This one found the machine's name taken, and has prepared none; or a later one has."""
    went_on = await recovered(monkeypatch, VmmState.LOADED)
    assert went_on.phase is Phase.DISCARDING
    went_on = await recovered(monkeypatch, VmmState.LOADED, PREPARED, arriving="m")
    assert went_on.phase is Phase.DISCARDING
    went_on = await recovered(monkeypatch, VmmState.LOADED, PREPARED, arriving="another")
    assert went_on.phase is Phase.STAGED


async def test_an_image_that_was_refused_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    went_on = await recovered(monkeypatch, VmmState.LOADED, PREPARED, REFUSED)
    assert went_on.phase is Phase.DISCARDING
