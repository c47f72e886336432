"""A server with the users that are shipped, and one who may do everything there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

import guarded_server
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.provision import provision
from guarded_server import Guarded


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded_server.running(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def owner(guarded: Guarded) -> AsyncIterator[NatsLog]:
    log = await guarded_server.connected(guarded.url)
    await provision(log)
    yield log
    await log.close()
