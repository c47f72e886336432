"""A machine that was paused before a migration is paused after it, however that ends."""

from __future__ import annotations

import pytest

from godwit.cli.machine import ask_machine, pause_machine
from godwit.cli.migration import cancel_migration
from godwit.pictures.machines import MachineState, find_machine
from godwit_protocol.errors import ConflictError, NotFoundError
from godwit_protocol.events.migration import AbortReason, Limits, Outcome, RoundCompleted
from operations import NO_CONVERGENCE, Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MEMHOG = "godwit.guests.memhog:Memhog"


async def steps_on(operations: Operations, host: str, name: str) -> int:
    """Steps of the machine, which stands still."""
    vmm = await operations.hypervisor(host).find(name)
    assert vmm is not None
    status = await vmm.status()
    assert status.halted
    return status.steps


async def test_paused_before_paused_after(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG, env=["GODWIT_MEMHOG_RATE=20000000"])
    await operations.ask(name, {"op": "check"})
    assert await pause_machine(operations.log, name, paused=True) == "host-1"
    steps = await steps_on(operations, "host-1", name)
    assert (await find_machine(operations.log, name)).state is MachineState.PAUSED
    with pytest.raises(ConflictError, match="is paused"):
        await ask_machine(operations.log, name, b"{}", 30.0)

    aborted = await operations.migrate(name, "host-2", Limits(stun_limit_ns=1))
    assert aborted.outcome is Outcome.ABORTED
    assert await steps_on(operations, "host-1", name) == steps

    completed = await operations.migrate(name, "host-2")
    assert completed.outcome is Outcome.COMPLETED, completed.message
    assert await steps_on(operations, "host-2", name) == steps

    assert await pause_machine(operations.log, name, paused=False) == "host-2"
    assert (await operations.ask(name, {"op": "check"}))["bad"] == 0
    await operations.stop(name)
    with pytest.raises(NotFoundError):
        await pause_machine(operations.log, name, paused=True)


async def test_a_machine_that_moves_is_not_paused(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG, env=["GODWIT_MEMHOG_RATE=50000000"])
    migration = await operations.request(name, "host-2", NO_CONVERGENCE)
    await operations.event(migration, RoundCompleted)
    with pytest.raises(ConflictError, match="is being migrated"):
        await pause_machine(operations.log, name, paused=True)
    assert (await cancel_migration(operations.log, migration)).reason is AbortReason.CANCELLED
    await operations.stop(name)
