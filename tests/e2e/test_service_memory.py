"""What a host's services take of its memory does not grow with the machine that they move."""

from __future__ import annotations

from pathlib import Path

import pytest
import service_memory
from moves import Lab

from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

SIZE_MIB = 512


async def test_a_machine_of_many_times_their_memory_is_moved(tmp_path: Path) -> None:
    """By services that have moved nothing yet: both are read all the while."""
    async with await Cluster.start(tmp_path, hosts=2) as cluster:
        log = await NatsLog.connect(cluster.nats_url, name="e2e")
        record = await service_memory.measure(Lab(log, cluster), SIZE_MIB, 1)
        await log.close()
    assert len(record.rows) == len(service_memory.SERVICES)
    for row in record.rows:
        assert 10 < row.judged <= service_memory.GOAL_MIB < SIZE_MIB / 3, row
