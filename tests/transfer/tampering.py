"""A man in the middle of the bulk connections: knows their frames, and alters what a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from godwit_protocol.framing import (
    HEADER_BYTES,
    PREAMBLE_BYTES,
    Frame,
    decode_header,
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
            far.sendall(_exactly(near, PREAMBLE_BYTES))
            while True:
                frame = decode_header(_exactly(near, HEADER_BYTES))
                payload = _exactly(near, frame.payload_bytes)
                for altered, data in self._tamper(frame, payload):
                    far.sendall(encode_header(altered) + data)
        except (OSError, EOFError):
            _shut(far)


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
