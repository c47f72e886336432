"""One cluster of real processes for all end-to-end tests: three hosts, their GPUs simulated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from operations import Operations


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Whoever kills a service of it starts it again."""
    directory = tmp_path_factory.mktemp("cluster")
    environ = {"GODWIT_CONTENT_DIR": str(directory / "content")}  # not there until a test makes it
    async with await Cluster.start(
        directory, hosts=3, gpus="H100-80GB:1", environ=environ
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def operations(cluster: Cluster) -> AsyncIterator[Operations]:
    """What an operator does, on the cluster."""
    log = await NatsLog.connect(cluster.nats_url, name="e2e")
    yield Operations(cluster, log)
    await log.close()


@pytest.fixture
def name() -> str:
    """A machine's name that no other test uses."""
    return f"m-{uuid4().hex[:12]}"
