"""What is different where three servers keep each message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from godwit.runtime.nats_log import NatsLog
from godwit.runtime.provision import provision
from godwit_protocol import subjects
from nats_cluster import SERVERS, NatsCluster

pytestmark = pytest.mark.e2e

MESSAGES = 2000
READERS = 16


@pytest_asyncio.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    async with NatsCluster.start(tmp_path / "nats") as cluster:
        yield cluster


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[NatsLog]:
    log = await NatsLog.connect(url, name="test")
    yield log
    await log.close()


async def test_a_history_is_whole_also_from_a_server_that_lags(
    nats: NatsCluster, unique_name: str
) -> None:
    """A server that slept lacks messages that are acknowledged, and serves consumers at once."""
    async with connected(nats.url) as log:
        await provision(log, replicas=SERVERS)
    leader = await nats.leader_of(subjects.EVENTS)
    subject = subjects.migration(unique_name, "source", "began")
    async with connected(nats.url_of(leader)) as log:
        lagging = (leader + 1) % SERVERS
        nats.freeze(lagging)
        await asyncio.gather(
            *(log.append(subject, bytes(4096), message_id=uuid4().hex) for _ in range(MESSAGES))
        )
        nats.thaw(lagging)
        counts = await asyncio.gather(*(_count(log, subject) for _ in range(READERS)))
    assert counts == [MESSAGES] * READERS


async def _count(log: NatsLog, subject: str) -> int:
    return len([stored async for stored in log.read([subject])])
