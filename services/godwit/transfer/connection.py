"""One TCP connection of the direct link: how it is set up, and its blocking reads and writes.

Bulk sockets block in the kernel, for a bounded time: a Python timeout would make them non-blocking
underneath, and MSG_WAITALL with them, which halves the rate. Knows nothing of frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Final

from godwit_protocol.errors import UnreachableError
from godwit_protocol.framing import FrameKind, Preamble, encode_preamble

STALL_S: Final = 10
"""How long a connection may move no byte in the middle of a frame before it counts as dead."""
CONNECT_TIMEOUT_S: Final = 5.0

_TIMEVAL: Final = struct.Struct("@ll")
_RESET_ON_CLOSE: Final = struct.pack("@ii", 1, 0)


class ConnectionLostError(UnreachableError):
    """The peer closed, reset or stalled a connection of the link."""


def tune(sock: socket.socket) -> None:
    """Set what every connection of the link needs. Raises ``OSError``.

    The sizes of the buffers are left to the kernel on purpose: setting one switches its automatic
    tuning off, which knows the path's delay and reaches the same size.
    """
    # The last frame of a round must not wait for an acknowledgement: it is part of the stun.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A source that waits between rounds, or a destination that waits for one, notices a dead host:
    # first probe after 5 s of silence, and given up with the user timeout.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    # Bytes that are not acknowledged in this time end the connection; the kernel's own limit is
    # a quarter of an hour.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_S * 1000)


async def open_control(
    host: str, port: int, session: bytes, token: bytes, *, timeout_s: float = CONNECT_TIMEOUT_S
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open the control connection of a session; messages may be written at once.

    Raises ``UnreachableError`` if nobody listens. A wrong token shows as the end of the stream.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        raise _no_answer(host, port, error) from error
    tune(writer.get_extra_info("socket"))
    writer.write(encode_preamble(Preamble(FrameKind.CONTROL_HELLO, session, token)))
    return reader, writer


class BulkConnection:
    """A bulk socket used by one thread, and broken off by any.

    Every method that moves bytes raises ``ConnectionLostError``.
    """

    def __init__(self, sock: socket.socket, *, stall_s: float = STALL_S) -> None:
        """Take ownership of a connected socket."""
        tune(sock)
        sock.setblocking(True)
        whole_s = int(stall_s)
        timeval = _TIMEVAL.pack(whole_s, int((stall_s - whole_s) * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        self._sock = sock
        self._stall_s = stall_s
        self._closing = threading.Lock()

    @classmethod
    def open(
        cls, host: str, port: int, *, timeout_s: float = CONNECT_TIMEOUT_S, stall_s: float = STALL_S
    ) -> BulkConnection:
        """Connect. Raises ``UnreachableError``."""
        try:
            sock = socket.create_connection((host, port), timeout_s)
        except OSError as error:
            raise _no_answer(host, port, error) from error
        return cls(sock, stall_s=stall_s)

    def send(self, data: bytes, *, more_follows: bool = False) -> None:
        """Send all of ``data``. ``more_follows``: hold the last partial packet for what comes."""
        try:
            self._sock.sendall(data, socket.MSG_MORE if more_follows else 0)
        except OSError as error:
            raise self._lost(error) from error

    def send_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send all of them, one after the other, in one system call unless the link is slow.

        They are copied into the socket as they are now: ``sendfile`` would not copy, but the
        receiver then does all the copying there is, from memory that is cold, and on one core that
        took half as long again. Besides, what goes out is what was there when this was called.
        """
        try:
            sent = self._sock.sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self._sock.sendall(part[sent:])
                sent = max(0, sent - len(part))
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, target: memoryview) -> None:
        """Fill ``target``."""
        filled = 0
        while filled < len(target):
            filled += self._receive_some(target[filled:])

    def receive_after_idle(self, target: memoryview, idle_s: float) -> None:
        """As ``receive``, but up to ``idle_s`` may pass before the first byte."""
        deadline = time.monotonic() + idle_s
        while True:
            try:
                filled = self._receive_some(target)
            except ConnectionLostError as error:
                if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > deadline:
                    raise
            else:
                return self.receive(target[filled:])

    def break_off(self) -> None:
        """End both directions, from any thread: whoever is blocked in the socket returns. The peer
        is told by a reset when the socket is closed. Idempotent.

        Without a reset a sender could hang: where the receiver's buffer was full and is emptied
        after its end, Linux neither opens the window nor answers the sender's probes.
        """
        with self._closing, contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket; by its own thread, or when that has ended. Idempotent.

        What was sent still arrives, unless the connection was broken off.
        """
        with self._closing:
            self._sock.close()

    def _receive_some(self, target: memoryview) -> int:
        try:
            received = self._sock.recv_into(target, 0, socket.MSG_WAITALL)
        except OSError as error:
            raise self._lost(error) from error
        if received == 0:
            raise ConnectionLostError("the peer closed the connection")
        return received

    def _lost(self, error: OSError) -> ConnectionLostError:
        if isinstance(error, BlockingIOError):
            return ConnectionLostError(f"the peer moved no byte for {self._stall_s} s")
        return ConnectionLostError(f"the connection broke: {error.strerror or error}")


def _no_answer(host: str, port: int, error: Exception) -> UnreachableError:
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    # A negative one is a name that was not found: its text says so.
    reason = os.strerror(number) if number > 0 else str(error) or "no answer in time"
    return UnreachableError(
        f"no direct link to {host}:{port}: {reason}",
        hint="is the destination host's service running, and its port open to this host?",
    )
