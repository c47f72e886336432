"""A real server with the users that are shipped: those who run Godwit, and those who watch it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from godwit.runtime.clock import SystemClock
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import find_binary
from godwit_protocol.events import Event, Lane
from godwit_protocol.events.migration import CancelRequested
from nats_cluster import free_port

ROOT = Path(__file__).parents[2]
READY_S_MAX = 20


class Guarded:
    """Where it is, for each of the users."""

    def __init__(self, port: int, pid: int) -> None:
        self.pid = pid
        self._address = f"127.0.0.1:{port}"
        self.url = f"nats://godwit:owner@{self._address}"
        self.watch_url = f"nats://watch:looker@{self._address}"


@asynccontextmanager
async def running(directory: Path, also: str = "") -> AsyncIterator[Guarded]:
    """``also``: what else stands in its configuration."""
    config, port = configured(directory, also), free_port()
    passwords = {"GODWIT_NATS_PASSWORD": "owner", "GODWIT_NATS_WATCH_PASSWORD": "looker"}
    server = await asyncio.create_subprocess_exec(
        *(find_binary(), "-c", config, "-a", "127.0.0.1", "-p", str(port)),
        env={**os.environ, **passwords},
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stderr is not None
    try:
        async with asyncio.timeout(READY_S_MAX):
            await _ready(server.stderr)
        reading = asyncio.create_task(server.stderr.read())
        yield Guarded(port, server.pid)
    finally:
        server.terminate()
        await server.wait()
    await reading


async def _ready(told: asyncio.StreamReader) -> None:
    """Wait until the server says that it takes connections."""
    while b"Server is ready" not in (line := await told.readline()):
        assert line, "the server ended"


def configured(directory: Path, also: str = "") -> Path:
    shutil.copy(ROOT / "deploy" / "nats-users.conf", directory)
    config = directory / "nats.conf"
    config.write_text(
        f'jetstream {{ store_dir: "{directory}/jetstream" }}\ninclude "nats-users.conf"\n{also}'
    )
    return config


async def connected(url: str) -> NatsLog:
    return await NatsLog.connect(url, name="owner")


async def tell(
    log: NatsLog, number: int, event: Event | None = None, lane: Lane = Lane.OPERATOR
) -> None:
    scope = Scope.of_migration(f"x{number}", "m")
    told = event or CancelRequested(requested_by=f"somebody {number}")
    await LaneWriter(SystemClock(), lane, "desk", scope).seal(told).append_to(log)
