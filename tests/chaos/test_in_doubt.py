"""A host dies where nobody can tell whether it runs the machine: an operator decides."""

from __future__ import annotations

import signal

import aftermath
import pytest
from arena import LIMITS, REACHED_S_MAX, Arena, send, until
from steps import step

from godwit.cli.resolve import find_doubt, order_run
from godwit.pictures.doubt import command
from godwit.pictures.migrations import error_of, find_migration
from godwit_protocol.errors import ConflictError, InDoubtError, InvalidInputError
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_an_operator_has_the_machine_run_where_it_was(arena: Arena) -> None:
    """The destination is gone between ACTIVATING and its word that it runs."""
    subject = await arena.machine()
    source = await arena.owner()
    destination = arena.other(source)
    is_reached = arena.plan(destination, step("d9"))
    operations = arena.operations
    migration = await operations.request(subject.name, destination, LIMITS)
    await until(is_reached, REACHED_S_MAX, "d9")
    with pytest.raises(ConflictError, match="not in doubt"):
        await find_doubt(operations.log, migration, source)
    vmm = arena.vmm_pid(destination)
    assert vmm is not None
    await arena.cluster.kill(f"{destination}-destination_host")
    send(vmm, signal.SIGKILL)
    await operations.event(migration, ev.DoubtRaised)

    standing = await find_migration(operations.log, migration)
    assert standing.outcome is Outcome.IN_DOUBT
    error = error_of(standing)
    assert isinstance(error, InDoubtError)
    assert command(standing) in error.hint
    with pytest.raises(InvalidInputError, match="not one of the migration's two"):
        await find_doubt(operations.log, migration, "host-9")

    found, record = await find_doubt(operations.log, migration, source)
    order = ev.RunOrdered(target=source, requested_by="ada@desk")
    with pytest.raises(InDoubtError, match=f"nothing proves that {destination} is powered off"):
        await order_run(operations.log, found, order)
    assert await operations.record(subject.name) == record

    vouched = ev.RunOrdered(target=source, other_is_off=True, requested_by="ada@desk")
    ended = await order_run(operations.log, found, vouched)
    assert ended.outcome is Outcome.ABORTED
    fenced = await operations.event(migration, ev.HostFenced)
    assert (fenced.target, fenced.vouched_by) == (destination, "ada@desk")
    assert await arena.owner() == source
    await arena.cluster.restart(f"{destination}-destination_host")
    assert await aftermath.check(arena, migration)
    with pytest.raises(ConflictError, match="has ended"):
        await find_doubt(operations.log, migration, source)
