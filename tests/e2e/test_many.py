"""Several migrations at once, and services that come and go."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from godwit.cli.migration import cancel_migration
from godwit_protocol.events.machine import MachineFailed
from godwit_protocol.events.migration import AbortReason, Limits, Outcome, RoundCompleted, Verify
from operations import NO_CONVERGENCE, Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

MEMHOG = "godwit.guests.memhog:Memhog"


async def test_two_migrations_of_one_machine(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG, env=["GODWIT_MEMHOG_RATE=20000000"])
    first = await operations.request(name, "host-2", NO_CONVERGENCE)
    await operations.event(first, RoundCompleted)
    second = await operations.migrate(name, "host-3")
    assert (second.outcome, second.reason) == (Outcome.ABORTED, AbortReason.ALREADY_MIGRATING)
    assert first in second.message
    await cancel_migration(operations.log, first)
    third = await operations.migrate(name, "host-3")
    assert third.outcome is Outcome.COMPLETED, third.message
    await operations.stop(name)


async def test_two_requests_at_the_same_instant(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG)
    both = await asyncio.gather(*(operations.migrate(name, to) for to in ("host-2", "host-3")))
    outcomes = sorted((each.outcome, each.reason) for each in both)
    assert outcomes[1] == (Outcome.COMPLETED, AbortReason.NONE), outcomes
    assert outcomes[0][0] is Outcome.ABORTED
    await operations.stop(name)


async def test_ten_machines_at_once(operations: Operations, name: str) -> None:
    names = [f"{name}-{number}" for number in range(10)]
    env = ["GODWIT_MEMHOG_RATE=1000000"]
    await asyncio.gather(*(operations.start(each, MEMHOG, ram="8MiB", env=env) for each in names))
    limits = Limits(stun_limit_ns=5_000_000_000)
    summaries = await asyncio.gather(
        *(operations.migrate(each, "host-2", limits) for each in names)
    )
    assert [summary.outcome for summary in summaries] == [Outcome.COMPLETED] * 10
    for each in names:
        assert (await operations.ask(each, {"op": "check"}))["bad"] == 0
    assert set(names) <= await operations.machines_on("host-2")
    assert not set(names) & await operations.machines_on("host-1")
    await asyncio.gather(*(operations.stop(each) for each in names))


async def test_memory_is_equal_at_the_switchover(operations: Operations, name: str) -> None:
    env = ["GODWIT_MEMHOG_RATE=20000000"]
    await operations.start(name, MEMHOG, ram="64MiB", vgpus=["H100XM-4C"], env=env)
    summary = await operations.migrate(name, "host-2", verify=Verify.FULL)
    assert summary.outcome is Outcome.COMPLETED, summary.message
    assert set(summary.digests) == {"ram", "vgpu0.framebuffer"}
    assert summary.marks.digest_ns > 0
    await operations.stop(name)


async def test_a_restarted_host_finds_its_machines(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG)
    for service in ("host-1-source_host", "host-1-destination_host", "host-1-launcher"):
        await operations.cluster.kill(service)
    assert (await operations.ask(name, {"op": "check"}))["bad"] == 0
    for service in ("host-1-launcher", "host-1-source_host", "host-1-destination_host"):
        await operations.cluster.restart(service)
    summary = await operations.migrate(name, "host-2")
    assert summary.outcome is Outcome.COMPLETED, summary.message
    assert (await operations.migrate(name, "host-1")).outcome is Outcome.COMPLETED
    await operations.stop(name)


async def test_a_coordinator_and_a_tracker_that_die_come_back(
    operations: Operations, name: str
) -> None:
    await operations.start(name, MEMHOG, env=["GODWIT_MEMHOG_RATE=20000000"])
    migration = await operations.request(name, "host-2", NO_CONVERGENCE)
    await operations.event(migration, RoundCompleted)
    for service in ("coordinator", "gpu_state_tracker"):
        await operations.cluster.kill(service)
    await operations.event(migration, RoundCompleted, 5)
    for service in ("coordinator", "gpu_state_tracker"):
        await operations.cluster.restart(service)
    summary = await cancel_migration(operations.log, migration)
    assert summary.reason is AbortReason.CANCELLED
    assert (await operations.migrate(name, "host-2")).outcome is Outcome.COMPLETED
    await operations.stop(name)


async def test_a_machine_that_dies_is_reported_even_if_nobody_watched(
    operations: Operations, name: str
) -> None:
    await operations.start(name, MEMHOG)
    await operations.cluster.kill("host-1-source_host")
    vmm = await operations.hypervisor("host-1").find(name)
    assert vmm is not None
    os.kill((await vmm.status()).pid, signal.SIGKILL)
    await operations.cluster.restart("host-1-source_host")
    failed = await operations.event_of_machine(name, MachineFailed)
    assert "died" in failed.message
    await operations.stop(name)
