"""A man in the middle of a direct link: knows the bulk connections' frames, and alters what a test
wants. What goes over other connections passes as it is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from msgspec.structs import replace

from godwit_protocol.framing import (
    HEADER_BYTES,
    PREAMBLE_BYTES,
    Frame,
    FrameKind,
    decode_header,
    decode_preamble,
    encode_header,
)

Tamper = Callable[[Frame, bytes], list[tuple[Frame, bytes]]]
"""What goes on instead of a frame and its payload."""
TamperAnswer = Callable[[bytes], bytes]
"""What goes back instead of a piece of what the destination says."""


class Tampered:
    """A port in front of the destination's."""

    def __init__(self, tamper: Tamper, answer: TamperAnswer = lambda data: data) -> None:
        self._tamper = tamper
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._server]
        self._threads: list[threading.Thread] = []

    def in_front_of(self, port: int) -> int:
        self._start(self._accept, port)
        return int(self._server.getsockname()[1])

    def close(self) -> None:
        for sock in self._sockets:
            _shut(sock)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        for sock in self._sockets:
            sock.close()

    def _start(self, act: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=act, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self, port: int) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            self._sockets += [near, far]
            self._start(self._forward, near, far)
            self._start(self._watch, far, near)

    def _watch(self, far: socket.socket, near: socket.socket) -> None:
        """The destination says nothing but answers; its end is the source's."""
        with contextlib.suppress(OSError):
            while data := far.recv(4096):
                near.sendall(self._answer(data))
        _shut(near)

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        try:
            preamble = _exactly(near, PREAMBLE_BYTES)
            far.sendall(preamble)
            while decode_preamble(preamble).kind is not FrameKind.BULK_HELLO:
                far.sendall(_some(near))
            while True:
                frame = decode_header(_exactly(near, HEADER_BYTES))
                payload = _exactly(near, frame.payload_bytes)
                for altered, data in self._tamper(frame, payload):
                    far.sendall(encode_header(altered) + data)
        except (OSError, EOFError):
            _shut(far)


def flipped_bit(kind: FrameKind) -> Tamper:
    """One bit of each frame of a kind."""

    def tamper(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
        if frame.kind is not kind:
            return [(frame, payload)]
        altered = bytearray(payload)
        altered[-1000] ^= 4
        return [(frame, bytes(altered))]

    return tamper


def lost(kind: FrameKind) -> Tamper:
    """No frame of a kind."""
    return lambda frame, payload: [] if frame.kind is kind else [(frame, payload)]


def doubled(kind: FrameKind) -> Tamper:
    """Each frame of a kind twice."""
    return lambda frame, payload: [(frame, payload)] * (1 + (frame.kind is kind))


def of_another_migration(kind: FrameKind) -> Tamper:
    """Each frame of a kind as if it were of another session."""
    other = b"session2"
    return lambda frame, payload: [
        (replace(frame, session=other) if frame.kind is kind else frame, payload)
    ]


def _some(near: socket.socket) -> bytes:
    data = near.recv(65536)
    if not data:
        raise EOFError
    return data


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while filled < count:
        received = sock.recv_into(view[filled:])
        if not received:
            raise EOFError
        filled += received
    return bytes(data)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
