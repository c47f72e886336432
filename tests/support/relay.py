"""A TCP relay before the server that can withhold what the server answers."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from urllib.parse import urlsplit


class Relay:
    """Passes bytes both ways, until told to keep the server's to itself or to cut the line."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._target = (parts.hostname, parts.port)
        self._answers_pass = asyncio.Event()
        self._answers_pass.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"nats://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    def withhold_answers(self) -> None:
        self._answers_pass.clear()

    async def cut(self) -> None:
        """Drop all lines, and what was withheld; new ones pass."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._answers_pass.set()

    async def cut_until_mended(self) -> None:
        """Drop all lines, and each new one at once."""
        self._is_cut = True
        await self.cut()

    def mend(self) -> None:
        """New lines pass again."""
        self._is_cut = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.closing(writer):
                server_reader, server_writer = await asyncio.open_connection(*self._target)
                with contextlib.closing(server_writer):
                    await asyncio.gather(
                        self._pass(reader, server_writer, None),
                        self._pass(server_reader, writer, self._answers_pass),
                    )
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        gate: asyncio.Event | None,
    ) -> None:
        while data := await source.read(65536):
            if gate is not None:
                await gate.wait()
            sink.write(data)
            await sink.drain()
        raise EOFError
