"""A coordinator and a tracker, real processes on the run's server, and a world around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.provision import provision
from links import all_hosts_linked

from .service_processes import ServiceProcess, StartService
from .world import World


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(
    nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[None]:
    """One coordinator and one tracker for a module's tests that do not harm them."""
    log = await NatsLog.connect(nats_server.url, name="services")
    await provision(log)
    await log.close()
    directory = tmp_path_factory.mktemp("services")
    running = [
        ServiceProcess(module, directory, nats_server.url)
        for module in ("coordinator", "gpu_state_tracker")
    ]
    yield
    statuses = [process.stop() for process in running]
    assert statuses == [0, 0], [process.log_path.read_text() for process in running]


@pytest_asyncio.fixture
async def world(log: NatsLog, services: None) -> AsyncIterator[World]:
    """A world on the run's server, with the services running."""
    async with all_hosts_linked(log):
        yield World(log)


@pytest_asyncio.fixture
async def own_world(own_log: NatsLog) -> AsyncIterator[World]:
    """A world on a server of its own, where the test starts the services."""
    async with all_hosts_linked(own_log):
        yield World(own_log)


@pytest.fixture
def start_service(own_server: NatsServer, tmp_path: Path) -> Iterator[StartService]:
    """Start a service on the test's own server; what still runs in the end is killed."""
    started: list[ServiceProcess] = []

    def start(module: str, **variables: str) -> ServiceProcess:
        process = ServiceProcess(module, tmp_path / "services", own_server.url, **variables)
        started.append(process)
        return process

    yield start
    for process in started:
        process.discard()
