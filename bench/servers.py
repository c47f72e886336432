"""A NATS server that is not a cluster's own, because it is set up in another way."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from godwit.runtime.nats_log import NatsLog
from godwit.runtime.nats_server import find_binary
from godwit_protocol.errors import UnreachableError

READY_S_MAX = 20.0


@asynccontextmanager
async def running(
    words: Sequence[str | Path], user: str = "", environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[int, int]]:
    """A server on loopback, started with those words; its port and its process.

    ``user``: whom it lets in, as a URL has it before the host.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(find_binary(), *words, "-a", "127.0.0.1", "-p", str(port)),
        env={**os.environ, **(environ or {})},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _ready(f"nats://{user}127.0.0.1:{port}")
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


async def _ready(url: str) -> None:
    async with asyncio.timeout(READY_S_MAX):
        while True:
            with suppress(UnreachableError):
                await (await NatsLog.connect(url, name="bench")).close()
                return
            await asyncio.sleep(0.05)
