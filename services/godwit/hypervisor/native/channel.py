"""The asking side of a control socket, for asyncio: one command under way, a deadline on each.

Knows frames, descriptors and deadlines; not what a command means.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from pathlib import Path
from typing import Final, TypeVar

from godwit_protocol.errors import (
    DeadlineError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
)

from . import wire

AT_ONCE_MS: Final = 1
"""How long the event loop's own thread waits for an answer that is expected at once. To turn to
something else, and be woken, takes longer than such an answer."""
BUSY_PACE_S: Final = 0.05
_READ_BYTES: Final = 2**18

A = TypeVar("A", bound=wire.Message)


class Channel:
    """A connection to the socket at ``path``, made when it is needed and kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None
        self._received = bytearray()
        self._turn = asyncio.Lock()

    def __del__(self) -> None:
        # Handles on VMMs come and go by the dozen, and nobody is told to close one.
        self.close()

    async def ask(
        self, command: wire.Message, kind: type[A], deadline_s: float, *, at_once: bool = False
    ) -> A:
        """Send ``command`` and return its answer, which must be a ``kind``. ``at_once``: a stun
        waits for it, and nothing else on this loop is to be done before it for ``AT_ONCE_MS``.

        Raises ``UnreachableError`` when nobody listens or the peer dies, ``DeadlineError`` when it
        is silent for ``deadline_s``, ``RefusedError`` when this process has no room for descriptors
        that came, else what the peer answers. After any of these, or a cancellation, the command
        may or may not have been obeyed.
        """
        answer, fds = await self.ask_with_fds(command, kind, deadline_s, at_once=at_once)
        assert not fds, f"{kind.__name__} came with descriptors"
        return answer

    async def ask_with_fds(
        self, command: wire.Message, kind: type[A], deadline_s: float, *, at_once: bool = False
    ) -> tuple[A, list[int]]:
        """As ``ask``; the descriptors that came with the answer are the caller's to close."""
        try:
            async with asyncio.timeout(deadline_s), self._turn:
                body, fds = await self._exchange(wire.frame(command), at_once=at_once)
        except TimeoutError as error:
            what = type(command).__name__
            raise DeadlineError(f"{self._path}: no answer to {what} in {deadline_s} s") from error
        except OSError as error:
            raise UnreachableError(f"nobody answers at {self._path} ({error})") from error
        answer = wire.decode_answer(body)
        if not isinstance(answer, kind):
            raise RemoteProtocolError(f"{type(answer).__name__} where {kind.__name__} was due")
        return answer, fds

    def close(self) -> None:
        """Hang up. The next ``ask`` connects anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._received.clear()

    async def _connected(self) -> socket.socket:
        """Who finds too many others waiting there waits too."""
        while self._connection is None:
            try:
                self._connection = wire.connect(self._path)
            except DeadlineError:
                await asyncio.sleep(BUSY_PACE_S)
        return self._connection

    async def _exchange(self, data: bytes, *, at_once: bool) -> tuple[bytes, list[int]]:
        fds: list[int] = []
        try:
            connection = await self._connected()
            await asyncio.get_running_loop().sock_sendall(connection, data)
            if at_once:
                _wait_here(connection)
            while (body := wire.take_frame(self._received)) is None:
                await self._read_on(connection, fds)
        except BaseException:
            # What is still to come would be taken for the answer to the next command.
            self.close()
            for fd in fds:
                os.close(fd)
            raise
        return body, fds

    async def _read_on(self, connection: socket.socket, fds: list[int]) -> None:
        """Add to what was received, waiting until there is something."""
        while True:
            try:
                data, came, flags, _ = socket.recv_fds(
                    connection, _READ_BYTES, wire.FDS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await readable(connection.fileno())
                continue
            if not data:
                raise ConnectionResetError("the peer hung up")
            fds += came
            if flags & socket.MSG_CTRUNC:
                raise RefusedError(
                    f"descriptors from {self._path} did not all come",
                    hint="this process may have no more open files than it has",
                )
            self._received += data
            return


def _wait_here(connection: socket.socket) -> None:
    look = select.poll()
    look.register(connection, select.POLLIN)
    look.poll(AT_ONCE_MS)


async def readable(fd: int) -> None:
    """Wait until ``fd`` can be read, however long that takes."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # the reader may fire once more before it is removed
        future.set_result(None)
