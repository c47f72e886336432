"""A cluster of real processes that traces into a collector, after one migration and one abort."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from godwit.cli.migration import cancel_migration
from godwit.local_cluster.cluster import Cluster
from godwit.runtime.nats_log import NatsLog
from godwit_protocol.errors import ConflictError
from godwit_protocol.events.migration import Limits, Outcome, RoundCompleted
from observed_cluster import Observed
from operations import NO_CONVERGENCE, Operations
from span_collector import SpanCollector

HOG = "godwit.guests.memhog:Memhog"
BUSY = ("GODWIT_MEMHOG_RATE=50000000",)
LET_GO_S_MAX = 30.0
QUIET = ("GODWIT_MEMHOG_RATE=0",)


async def stopped(operations: Operations, machine: str) -> None:
    """Stop it, once its host has let go of the migration that has just ended."""
    async with asyncio.timeout(LET_GO_S_MAX):
        while True:
            with suppress(ConflictError):
                return await operations.stop(machine)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def observed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    directory = tmp_path_factory.mktemp("observed")
    with SpanCollector() as collector, pytest.MonkeyPatch.context() as patched:
        environ = {
            "GODWIT_TRACING": "on",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with await Cluster.start(
            directory, hosts=2, environ=environ, monitor=True
        ) as cluster:
            # Commands are given in this process, and are to send their spans too.
            for variable, value in environ.items():
                patched.setenv(variable, value)
            log = await NatsLog.connect(cluster.nats_url, name="observability")
            operations = Operations(cluster, log)
            await operations.start("hog", HOG, vgpus=("1g.10gb",), env=BUSY)
            completed = await operations.request("hog", "host-2", Limits(stun_limit_ns=5 * 10**9))
            assert (await operations.ended(completed)).outcome is Outcome.COMPLETED
            aborted = await operations.request("hog", "host-1", NO_CONVERGENCE)
            await operations.event(aborted, RoundCompleted)
            assert (await cancel_migration(log, aborted)).outcome is Outcome.ABORTED
            # The cluster outlives these tests: nobody is to pay for a busy guest.
            await stopped(operations, "hog")
            await operations.start("quiet", HOG, "host-2", vgpus=("1g.10gb",), env=QUIET)
            yield Observed(cluster, log, collector, completed, aborted)
            await log.close()
