"""Where a destination takes the connections of the direct link, and who each of them is for.

Control and bulk connections of all migrations come to one port. The preamble tells them apart: a
control connection becomes a stream on the event loop, a bulk connection goes to its session's
threads. A connection that does not show the token of a session that is expected is closed unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from dataclasses import dataclass
from typing import Final

import structlog

from godwit_protocol.errors import (
    GodwitError,
    LocalProtocolError,
    RemoteProtocolError,
    UnreachableError,
)
from godwit_protocol.framing import PREAMBLE_BYTES, FrameKind, Preamble, decode_preamble

from .connection import tune
from .port import BulkSession, OnControl

PREAMBLE_TIMEOUT_S: Final = 5.0
UNKNOWN_CONNECTIONS_MAX: Final = 256
"""Connections that have not said who they are yet; more are closed at once."""
_BACKLOG: Final = 128
_ACCEPT_PAUSE_S: Final = 0.1

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Expected:
    token: bytes
    on_control: OnControl
    bulk: BulkSession | None = None


class LinkListener:
    """One listening port of a destination host. Used on the event loop on which it was opened."""

    def __init__(self, sock: socket.socket) -> None:
        """Use ``open`` instead."""
        self._sock = sock
        self._expected: dict[bytes, _Expected] = {}
        self._greeting: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept(), name="link-accept")

    @classmethod
    async def open(cls, host: str, port: int = 0) -> LinkListener:
        """Listen; port 0 takes a free one. Raises ``UnreachableError`` if the port is taken."""
        try:
            sock = socket.create_server((host, port), backlog=_BACKLOG)
        except OSError as error:
            raise UnreachableError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        sock.setblocking(False)
        return cls(sock)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._sock.getsockname()[1])

    def expect(self, session: bytes, token: bytes, on_control: OnControl) -> None:
        """From now on give each control connection of ``session`` to ``on_control``, on the loop.

        A source that lost its connection may come again: the newest one counts.
        """
        self._expected[session] = _Expected(token, on_control)

    def admit_bulk(self, session: BulkSession) -> None:
        """From now on give bulk connections to ``session``.

        Raises ``LocalProtocolError`` if ``expect`` was not told of it.
        """
        expected = self._expected.get(session.link.session)
        if expected is None:
            raise LocalProtocolError(f"session {session.link.session.hex()} is not expected")
        expected.bulk = session

    def forget(self, session: bytes) -> None:
        """Take no more connections of ``session``. Idempotent; those that are there stay."""
        self._expected.pop(session, None)

    async def close(self) -> None:
        """Stop listening. Idempotent; connections that were handed over stay."""
        tasks = [self._accepting, *self._greeting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError as error:  # a connection gone before it was taken; no free descriptors
                _log.warning("link_accept_failed", error=str(error))
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(self._greeting) >= UNKNOWN_CONNECTIONS_MAX:
                sock.close()
                continue
            task = asyncio.create_task(self._greet(sock))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, sock: socket.socket) -> None:
        """Learn who a connection is for, and hand it over; or close it."""
        with contextlib.ExitStack() as unless_taken:
            unless_taken.callback(sock.close)
            try:
                async with asyncio.timeout(PREAMBLE_TIMEOUT_S):
                    preamble = decode_preamble(await _read_preamble(sock))
                expected = self._admitted(preamble)
            except (GodwitError, OSError, TimeoutError) as error:
                _log.warning("link_connection_refused", error=str(error) or "no preamble in time")
                return
            unless_taken.pop_all()
        await _hand_over(expected, preamble, sock)

    def _admitted(self, preamble: Preamble) -> _Expected:
        expected = self._expected.get(preamble.session)
        if expected is None or not hmac.compare_digest(expected.token, preamble.token):
            raise RemoteProtocolError(
                f"session {preamble.session.hex()} is not expected, or the token is not its own"
            )
        if preamble.kind is FrameKind.BULK_HELLO and expected.bulk is None:
            raise RemoteProtocolError(
                f"session {preamble.session.hex()} opened a bulk connection before its time"
            )
        return expected


async def _read_preamble(sock: socket.socket) -> bytes:
    """Exactly the preamble: not one byte of what follows, which is not for the event loop."""
    loop = asyncio.get_running_loop()
    preamble = b""
    while len(preamble) < PREAMBLE_BYTES:
        piece = await loop.sock_recv(sock, PREAMBLE_BYTES - len(preamble))
        if not piece:
            raise RemoteProtocolError("a connection was closed before it said who it is")
        preamble += piece
    return preamble


async def _hand_over(expected: _Expected, preamble: Preamble, sock: socket.socket) -> None:
    if preamble.kind is FrameKind.BULK_HELLO and expected.bulk is not None:
        expected.bulk.admit(preamble, sock)
    else:
        tune(sock)
        reader, writer = await asyncio.open_connection(sock=sock)
        expected.on_control(reader, writer)
