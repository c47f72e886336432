"""Every abort leaves the machine running where it was, with all that was reserved given back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from godwit.cli.guest_client import GuestClient
from godwit.cli.migration import cancel_migration
from godwit_protocol.events.migration import (
    AbortReason,
    Limits,
    MigrationAbandoned,
    Outcome,
    PrecopyStarted,
    RoundCompleted,
)
from godwit_protocol.events.reservation import ReservationReleased
from godwit_protocol.machine import MachineSpec
from godwit_protocol.projections import MigrationSummary
from operations import NO_CONVERGENCE, Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

BUSY = ("GODWIT_MEMHOG_RATE=50000000",)


@asynccontextmanager
async def busy_machine(operations: Operations, name: str) -> AsyncIterator[GuestClient]:
    """A machine that writes all the time and answers all the time; no answer may be lost."""
    vgpus = ["H100XM-4C"]
    await operations.start(name, "godwit.guests.memhog:Memhog", vgpus=vgpus, env=BUSY)
    over = asyncio.Event()
    async with operations.client(name) as client:

        async def keep_asking() -> None:
            while not over.is_set():
                assert b"error" not in await client.ask(json.dumps({"op": "status"}).encode())

        asking = asyncio.create_task(keep_asking())
        yield client
        over.set()
        await asking
        assert (client.lost, client.doubled) == (0, 0)
    checked = await operations.ask(name, {"op": "check"})
    assert (checked["bad"], checked["table_whole"]) == (0, True)
    await operations.stop(name)


async def assert_unmoved(
    operations: Operations, name: str, summary: MigrationSummary, reason: AbortReason
) -> None:
    assert (summary.outcome, summary.reason) == (Outcome.ABORTED, reason), summary.message
    record = await operations.record(name)
    assert (record.owner, record.epoch) == ("host-1", 1)
    assert (await operations.ask(name, {"op": "status"})) != {}
    types = await operations.types(summary.id)
    if "reservation_granted" in types:
        await operations.event(summary.id, ReservationReleased)
    assert summary.id not in await operations.reservations("host-2")
    assert types.count("migration_ended") == 1


async def test_the_destination_refuses(operations: Operations, name: str) -> None:
    async with busy_machine(operations, name):
        stray = await operations.hypervisor("host-2").create(
            MachineSpec(name=name, guest="godwit.guests.memhog:Memhog", ram_bytes=1 << 20)
        )
        summary = await operations.migrate(name, "host-2")
        await assert_unmoved(operations, name, summary, AbortReason.DESTINATION_REFUSED)
        assert name in summary.message
        await stray.stop()


async def test_the_tracker_refuses(operations: Operations, name: str) -> None:
    neighbour = f"{name}-big"
    await operations.start(neighbour, "godwit.guests.memhog:Memhog", "host-2", vgpus=["H100XM-80C"])
    async with busy_machine(operations, name):
        summary = await operations.migrate(name, "host-2")
        await assert_unmoved(operations, name, summary, AbortReason.RESERVATION_REFUSED)
        assert f"{neighbour} (from slot 0) would have to move" in summary.message
    await operations.stop(neighbour)


async def test_the_destination_dies_before_the_stun(operations: Operations, name: str) -> None:
    async with busy_machine(operations, name):
        migration = await operations.request(name, "host-2", NO_CONVERGENCE)
        await operations.event(migration, RoundCompleted, 2)
        await operations.cluster.kill("host-2-destination_host")
        summary = await operations.ended(migration)
        await assert_unmoved(operations, name, summary, AbortReason.DESTINATION_LOST)
        await operations.cluster.restart("host-2-destination_host")
        await _until_gone(operations, name)
        completed = await operations.migrate(name, "host-2")
        assert completed.outcome is Outcome.COMPLETED, completed.message


async def _until_gone(operations: Operations, name: str) -> None:
    """The restarted service discards what its former life left half received."""
    async with asyncio.timeout(30):
        while name in await operations.machines_on("host-2") or operations.journals("host-2"):
            await operations.log.last("godwit.v1.inventory.host-2")


async def test_the_stun_limit_cannot_be_met(operations: Operations, name: str) -> None:
    async with busy_machine(operations, name):
        summary = await operations.migrate(name, "host-2", Limits(stun_limit_ns=1_000))
        await assert_unmoved(operations, name, summary, AbortReason.STUN_LIMIT_UNREACHABLE)
        assert summary.stun_ns is None


async def test_an_operator_cancels(operations: Operations, name: str) -> None:
    async with busy_machine(operations, name):
        migration = await operations.request(name, "host-2", NO_CONVERGENCE)
        await operations.event(migration, RoundCompleted)
        summary = await cancel_migration(operations.log, migration)
        await assert_unmoved(operations, name, summary, AbortReason.CANCELLED)
        again = await cancel_migration(operations.log, migration)
        assert again.reason is AbortReason.CANCELLED


async def test_the_deadline_passes_while_copying(operations: Operations, name: str) -> None:
    async with busy_machine(operations, name):
        limits = msgspec.structs.replace(NO_CONVERGENCE, deadline_ns=4_000_000_000)
        migration = await operations.request(name, "host-2", limits)
        await operations.event(migration, PrecopyStarted)
        summary = await operations.ended(migration)
        await assert_unmoved(operations, name, summary, AbortReason.DEADLINE_PASSED)
        abandoned = await operations.event(migration, MigrationAbandoned)
        assert abandoned.reason is AbortReason.DEADLINE_PASSED


async def test_nothing_is_left_on_the_destination(operations: Operations, name: str) -> None:
    async with busy_machine(operations, name):
        summary = await operations.migrate(name, "host-2", Limits(stun_limit_ns=1_000))
        assert summary.outcome is Outcome.ABORTED
        await _until_gone(operations, name)
