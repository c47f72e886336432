"""Fixtures that stand on a real nats-server. Subjects are global: use ``unique_name`` in them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
import pytest_asyncio
import structlog

from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import NatsServer
from godwit.runtime.provision import provision

# Imported here, where there are no threads yet: pytest's plugin would import it in the middle of a
# test, and CPython before 3.11.8 may fail to parse in two threads at once (cpython#106905).
# Deadlines of examples would time a shared machine, not the code.
# Log lines belong to the test that wrote them: by way of logging, pytest shows them if it fails.
structlog.configure(
    processors=[structlog.stdlib.render_to_log_kwargs],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)
# A shell without job control has what it starts in the background ignore Ctrl-C, and so would all
# that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("godwit", deadline=None)
hypothesis.settings.load_profile("godwit")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """One server for a module: what it stores is nobody else's. ``own_server`` is to be stopped."""
    server = await NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def log(nats_server: NatsServer) -> AsyncIterator[NatsLog]:
    """A connection of this test's own, with all streams there."""
    connected = await NatsLog.connect(nats_server.url, name="test")
    await provision(connected)
    yield connected
    await connected.close()


@pytest_asyncio.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server of this test's own, to be stopped and restarted. Without streams."""
    server = await NatsServer.start(tmp_path / "nats")
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def own_log(own_server: NatsServer) -> AsyncIterator[NatsLog]:
    """A connection to ``own_server``, with all streams there."""
    connected = await NatsLog.connect(own_server.url, name="test")
    await provision(connected)
    yield connected
    await connected.close()


@pytest.fixture
def unique_name() -> str:
    """A name for a machine or a migration that no other test uses."""
    return f"m-{uuid4().hex[:12]}"
