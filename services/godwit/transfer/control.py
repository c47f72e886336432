"""The control connection of the direct link: typed messages both ways, and a peer that is alive.

A peer that says nothing for ``SILENCE_S`` counts as lost: TCP alone does not notice a process that
is stopped. What the messages mean is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from godwit_protocol import link
from godwit_protocol.errors import RemoteProtocolError
from godwit_protocol.framing import ControlReader, encode_control

from .port import ByteReader, ByteWriter

PING_S: Final = 1.0
SILENCE_S: Final = 5.0
CLOSE_S: Final = 2.0
READ_BYTES: Final = 256 * 1024
_PING: Final = link.Ping()


class ControlLink:
    """One open control connection. Used on one event loop.

    ``on_message`` is called for each message, in order, but for a ping only if it says more;
    ``on_lost`` at most once, with the reason in words, and not after ``close``.
    """

    def __init__(
        self,
        reader: ByteReader,
        writer: ByteWriter,
        on_message: Callable[[link.AnyLinkMessage], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_message = on_message
        self._on_lost = on_lost
        self._closing = False
        self._tasks = (
            asyncio.create_task(self._read(), name="link-read"),
            asyncio.create_task(self._ping(), name="link-ping"),
        )

    def say(self, message: link.LinkMessage) -> None:
        """Send, soon. Dropped if the connection is gone: ``on_lost`` says so."""
        if not self._writer.is_closing():
            self._writer.write(encode_control(link.encode(message)))

    async def close(self) -> None:
        """Flush what was said, and close. Bounded in time; idempotent."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                self._writer.close()
                await self._writer.wait_closed()
        self._writer.transport.abort()

    async def _read(self) -> None:
        frames = ControlReader()
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    data = await self._reader.read(READ_BYTES)
                if not data:
                    return self._lose("the peer closed the link")
                for payload in frames.feed(data):
                    message = link.decode(payload)
                    if message != _PING:
                        self._on_message(message)
        except TimeoutError:
            self._lose(f"the peer was silent for {SILENCE_S:g} s")
        except (OSError, RemoteProtocolError) as error:
            self._lose(str(error))

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self.say(_PING)

    def _lose(self, reason: str) -> None:
        self._tasks[1].cancel()
        self._writer.close()
        if not self._closing:
            self._closing = True
            self._on_lost(reason)
