"""Pages altered between two real hosts are found while the source still owns the machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tampered_service import Case, case_path

import tampering
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.events.migration import (
    AbortReason,
    ImageDiscarded,
    ImageStaged,
    Limits,
    MachineStunned,
    MigrationAbandoned,
    Outcome,
    Verify,
)
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

FOUND = {
    Case.FLIPPED_BIT: "digest",
    Case.LOST: "lost or doubled",
    Case.DOUBLED: "lost or doubled",
    Case.OF_ANOTHER_MIGRATION: "another migration",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operations(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Operations]:
    """Two hosts with somebody between them."""
    directory = tmp_path_factory.mktemp("tampered")
    places = (Path(__file__).parent, Path(tampering.__file__).parent)
    async with await Cluster.start(
        directory,
        gpus="",
        launch_through=("tampered_service",),
        environ={"PYTHONPATH": os.pathsep.join(map(str, places))},
    ) as cluster:
        log = await NatsLog.connect(cluster.nats_url, name="tampering")
        yield Operations(cluster, log)
        await log.close()


async def assert_goes_on(operations: Operations, name: str, migration: str) -> None:
    await operations.event(migration, ImageDiscarded)
    record = await operations.record(name)
    assert (record.owner, record.epoch) == ("host-1", 1)
    checked = await operations.ask(name, {"op": "check"})
    assert (checked["bad"], checked["table_whole"]) == (0, True)


async def test_what_is_altered_on_the_wire_is_found_and_the_guest_goes_on(
    operations: Operations,
) -> None:
    name, case_file = "whole", case_path(operations.cluster.directory)
    env = ("GODWIT_MEMHOG_RATE=10000000", "GODWIT_MEMHOG_FILL=1")  # so that runs of pages travel
    await operations.start(name, "godwit.guests.memhog:Memhog", env=env)
    for case, says in FOUND.items():
        case_file.write_text(case)
        summary = await operations.migrate(name, "host-2", verify=Verify.WIRE)
        assert summary.outcome is Outcome.ABORTED, case
        assert summary.reason is AbortReason.VERIFICATION_FAILED, (case, summary.message)
        assert says in summary.message
        abandoned = await operations.event(summary.id, MigrationAbandoned)
        assert (abandoned.reason, abandoned.stun_ns) == (AbortReason.VERIFICATION_FAILED, 0)
        assert MachineStunned.TYPE not in await operations.types(summary.id)
        await assert_goes_on(operations, name, summary.id)
    case_file.write_text(Case.NOTHING)
    summary = await operations.migrate(name, "host-2", verify=Verify.WIRE)
    assert summary.outcome is Outcome.COMPLETED, summary.message
    checked = await operations.ask(name, {"op": "check"})
    assert (checked["bad"], checked["table_whole"]) == (0, True)


async def test_one_byte_of_the_image_that_differs_is_found_and_the_guest_goes_on(
    operations: Operations,
) -> None:
    """All that came over the wire was right: only both whole images tell."""
    name, case_file = "altered", case_path(operations.cluster.directory)
    case_file.write_text(Case.ALTERED_AT_REST)
    await operations.start(name, "godwit.guests.memhog:Memhog", env=("GODWIT_MEMHOG_RATE=1000000",))
    limits = Limits(stun_limit_ns=5_000_000_000)
    summary = await operations.migrate(name, "host-2", limits, Verify.FULL)
    assert summary.outcome is Outcome.ABORTED
    assert summary.reason is AbortReason.VERIFICATION_FAILED, summary.message
    assert "regions differ from the source's: ram" in summary.message
    abandoned = await operations.event(summary.id, MigrationAbandoned)
    assert abandoned.stun_ns > 0
    assert ImageStaged.TYPE not in await operations.types(summary.id)
    await assert_goes_on(operations, name, summary.id)
    case_file.write_text(Case.NOTHING)
    summary = await operations.migrate(name, "host-2", limits, Verify.FULL)
    assert summary.outcome is Outcome.COMPLETED, summary.message
