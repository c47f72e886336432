"""What the kernel is told of each connection of the direct link, at both of its ends."""

import asyncio
import socket

import pytest
from direct_link import DEADLINE_S, SESSION, TOKEN, direct

from godwit.transfer.connection import STALL_S, open_control

SO_BUF_LOCK = 72
"""Which buffers' sizes were set by hand; Python's ``socket`` does not know it."""


def told(sock, level, option):
    return sock.getsockopt(level, option)


def check(sock):
    assert told(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert told(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert told(sock, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    assert told(sock, socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 2
    assert told(sock, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == STALL_S * 1000
    assert told(sock, socket.SOL_SOCKET, SO_BUF_LOCK) == 0


async def test_bulk_connections_are_set_up_at_both_ends():
    async with direct(2, 8) as link:
        here = [outgoing.connection._sock for outgoing in link.sender._outgoing]
        there = [connection._sock for connection in link.session._connections.values()]
        assert len(here) == len(there) == 2
        for sock in (*here, *there):
            check(sock)
            assert sock.getblocking()
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                assert any(sock.getsockopt(socket.SOL_SOCKET, option, 16)), "it may block for ever"


async def test_the_control_connection_is_set_up_at_both_ends():
    come = asyncio.get_running_loop().create_future()
    async with direct(1, 8) as link:
        link.listener.expect(SESSION, TOKEN, lambda _, writer: come.set_result(writer))
        _, here = await open_control("127.0.0.1", link.listener.port, SESSION, TOKEN)
        async with asyncio.timeout(DEADLINE_S):
            there = await come
        for writer in (here, there):
            check(writer.get_extra_info("socket"))
            writer.close()


@pytest.mark.parametrize("option", [socket.SO_SNDBUF, socket.SO_RCVBUF])
def test_a_buffer_that_was_set_by_hand_is_known(option):
    with socket.socket() as sock:
        assert told(sock, socket.SOL_SOCKET, SO_BUF_LOCK) == 0
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        assert told(sock, socket.SOL_SOCKET, SO_BUF_LOCK) != 0
