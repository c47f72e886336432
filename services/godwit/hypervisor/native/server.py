"""The listening side of a control socket: one thread, never blocked by a client.

A client has at most one command under way: the next is read when the last answer has gone out, so
that nothing grows. What a client asked for that has hung up is not done: it has stopped waiting,
and has drawn its conclusions. Knows frames and descriptors; what a command means is its caller's.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from godwit_protocol.errors import LocalProtocolError, RemoteProtocolError

from . import wire

CLIENTS_MAX: Final = 64
_READ_BYTES: Final = 2**18
_NONE_FREE: Final = (errno.EMFILE, errno.ENFILE)

Answerer = Callable[[bytes], tuple[wire.Message, Sequence[int]]]
"""Takes a command's body; returns the answer and the descriptors that go with it."""


@dataclass(slots=True, eq=False)
class _Client:
    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""


class ControlServer:
    """Accepts clients of ``listener`` and answers their commands, while ``poll`` is called."""

    def __init__(self, listener: socket.socket, answer: Answerer) -> None:
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._listener = listener
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.watch(self._listener.fileno(), self._accept)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` in ``poll`` whenever ``fd`` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def poll(self, timeout_s: float | None) -> None:
        """Serve what is there; wait for at most ``timeout_s`` (None: for ever) if nothing is."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def _accept(self) -> None:
        """All that wait, since a guest may step long before the next turn. Who has hung up again,
        as whoever asks whether anybody listens does, takes no one's place.
        """
        while (connection := self._accepted()) is not None:
            if len(self._clients) >= CLIENTS_MAX or _has_hung_up(connection):
                connection.close()
                continue
            connection.setblocking(False)
            client = _Client(connection)
            self._clients.add(client)
            self.watch(connection.fileno(), partial(self._serve, client))

    def _accepted(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError as error:
            if error.errno in _NONE_FREE:
                self._turn_away()
            return None

    def _turn_away(self) -> None:
        """Take whoever waits, with the spare descriptor, and hang up: else ``poll`` would not wait
        any more. A guest, which shares this process, may have taken all others.
        """
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1
            with suppress(OSError):
                self._listener.accept()[0].close()
        with suppress(OSError):
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _serve(self, client: _Client) -> None:
        try:
            if client.unsent:
                self._send_rest(client)
            else:
                self._receive(client)
            self._answer_next(client)
        except (OSError, EOFError, RemoteProtocolError):
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        data = client.connection.recv(_READ_BYTES)
        if not data or _has_hung_up(client.connection):
            raise EOFError
        client.received += data

    def _answer_next(self, client: _Client) -> None:
        while not client.unsent and (body := wire.take_frame(client.received)) is not None:
            answer, fds = self._answer(body)
            try:
                data = wire.frame(answer)
            except LocalProtocolError as error:  # nothing that a client asks may end the machine
                data, fds = wire.frame(wire.failed(error)), ()
            client.unsent = data[_send(client.connection, data, fds) :]
        if client.unsent:
            self._await(client, selectors.EVENT_WRITE)

    def _send_rest(self, client: _Client) -> None:
        client.unsent = client.unsent[client.connection.send(client.unsent) :]
        if not client.unsent:
            self._await(client, selectors.EVENT_READ)

    def _await(self, client: _Client, events: int) -> None:
        key = self._selector.get_key(client.connection)
        self._selector.modify(client.connection, events, key.data)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        self._clients.discard(client)
        client.connection.close()


def _has_hung_up(connection: socket.socket) -> bool:
    look = select.poll()
    look.register(connection, select.POLLRDHUP)
    return bool(look.poll(0))


def _send(connection: socket.socket, data: bytes, fds: Sequence[int]) -> int:
    # Only a client that asks without reading can make this raise BlockingIOError: it is dropped.
    return socket.send_fds(connection, [data], list(fds)) if fds else connection.send(data)
