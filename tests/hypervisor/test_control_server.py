"""Nothing that comes to a VMM's control socket may end the machine behind it."""

import asyncio
import errno
import os
import socket
from contextlib import ExitStack, suppress

import pytest

from godwit.hypervisor.native import wire
from godwit.hypervisor.native.channel import Channel
from godwit.hypervisor.native.server import CLIENTS_MAX, ControlServer
from godwit_protocol.errors import DeadlineError, LocalProtocolError


class ShortOfDescriptors(socket.socket):
    """A listener in a process that has one descriptor to spare, while it is ``short``."""

    short = True

    def accept(self):
        if self.short and not self.spared:
            self.spared = True
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.spared = False
        return super().accept()

    spared = False


@pytest.fixture
def listener(tmp_path):
    with ShortOfDescriptors(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        yield listener


def connected(listener):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(listener.getsockname())
    return client


def asked(server, client, turns=2):
    client.sendall(wire.frame(wire.GetStatus()))
    for _ in range(turns):
        server.poll(10)
    received = bytearray()
    while (body := wire.take_frame(received)) is None:
        received += client.recv(2**16)
    return wire.decode_answer(body)


def test_whoever_finds_no_descriptor_free_is_turned_away_and_the_next_one_is_served(listener):
    server = ControlServer(listener, lambda _: (wire.Done(), ()))
    with connected(listener) as turned_away:
        server.poll(10)
        assert turned_away.recv(1) == b""
    listener.short = False
    with connected(listener) as client:
        assert asked(server, client) == wire.Done()
    server.poll(10)  # it hears that the client has gone


def test_an_answer_that_is_too_long_is_an_error_to_whoever_asked(listener):
    listener.short = False
    answers = [wire.Paused(bytes(wire.FRAME_BYTES_MAX), 0), wire.Done()]
    server = ControlServer(listener, lambda _: (answers.pop(0), ()))
    with connected(listener) as client:
        with pytest.raises(LocalProtocolError, match="Paused of"):
            asked(server, client)
        assert asked(server, client, turns=1) == wire.Done()
    server.poll(10)


def test_who_has_hung_up_takes_no_ones_place(listener):
    """Whoever asks only whether anybody listens comes often, and a long step lets them gather."""
    listener.short = False
    server = ControlServer(listener, lambda _: (wire.Done(), ()))
    for _ in range(CLIENTS_MAX + 10):
        connected(listener).close()
    with connected(listener) as client:
        assert asked(server, client) == wire.Done()
    server.poll(10)


async def test_who_is_too_busy_to_answer_is_not_gone(tmp_path):
    listener = wire.listen(tmp_path / "socket")
    with ExitStack() as waiting:
        waiting.callback(listener.close)
        with pytest.raises(DeadlineError, match="too many wait"):
            for _ in range(10_000):
                waiting.enter_context(wire.connect(tmp_path / "socket"))


async def test_who_asks_somebody_that_is_too_busy_waits_and_keeps_nobody_else_from_working(
    tmp_path,
):
    listener, turns = wire.listen(tmp_path / "socket"), []
    with ExitStack() as waiting:
        waiting.callback(listener.close)
        with suppress(DeadlineError):
            while True:
                waiting.enter_context(wire.connect(tmp_path / "socket"))
        vmm = Channel(tmp_path / "socket")
        asyncio.get_running_loop().call_later(0.01, turns.append, 1)
        with pytest.raises(DeadlineError, match="no answer to GetStatus"):
            await vmm.ask(wire.GetStatus(), wire.Status, 0.2)
        assert turns == [1]
