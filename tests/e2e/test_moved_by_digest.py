"""A cluster whose hosts find what was written by digests moves machines whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.events.migration import Limits, Outcome, Verify
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


PATIENT = Limits(stun_limit_ns=5_000_000_000)
"""All memory is compared in the stun: on a busy host that takes its time."""


async def test_a_machine_that_writes_is_moved_there_and_back(tmp_path: Path, name: str) -> None:
    environ = {"GODWIT_DIRTY_TRACKER": "digest"}
    async with await Cluster.start(tmp_path, hosts=2, environ=environ) as cluster:
        log = await NatsLog.connect(cluster.nats_url, name="e2e")
        operations = Operations(cluster, log)
        env = ("GODWIT_MEMHOG_RATE=20000000", "GODWIT_MEMHOG_PATTERN=hot")
        await operations.start(name, "godwit.guests.memhog:Memhog", ram="32MiB", env=env)
        for destination in ("host-2", "host-1"):
            summary = await operations.migrate(name, destination, PATIENT, Verify.FULL)
            assert summary.outcome is Outcome.COMPLETED, (summary.reason, summary.message)
            assert all(done.figures.look_ns > 0 for done in summary.rounds)
            checked = await operations.ask(name, {"op": "check"})
            assert (checked["bad"], checked["table_whole"]) == (0, True)
        await log.close()
