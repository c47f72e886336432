"""Who is let in, and to whom: the token decides, the preamble sorts."""

import asyncio
import socket

import numpy as np
import pytest
import uvloop
from direct_link import DEADLINE_S, SESSION, TOKEN, direct, runs, work

from godwit.transfer import listener as listener_module
from godwit.transfer.connection import open_control
from godwit.transfer.listener import LinkListener
from godwit.transfer.receiver import IncomingSession
from godwit_protocol.bulk import BulkLink, BulkWriter
from godwit_protocol.errors import LocalProtocolError, UnreachableError
from godwit_protocol.framing import (
    ControlReader,
    FrameKind,
    Preamble,
    encode_control,
    encode_preamble,
)

LINK = BulkLink(SESSION, 1, (8,))
PAGES = np.zeros((8, 4096), np.uint8)


async def is_refused(port: int, data: bytes) -> bool:
    """Whether a connection that begins with ``data`` is closed unread."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        writer.close()


@pytest.fixture
async def listener():
    opened = await LinkListener.open("127.0.0.1")
    yield opened
    await opened.close()


async def test_the_control_connection_becomes_a_stream(listener):
    come: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    listener.expect(SESSION, TOKEN, lambda *streams: come.put_nowait(streams))
    _, source = await open_control("127.0.0.1", listener.port, SESSION, TOKEN)
    source.write(encode_control(b"message"))  # in one packet with the preamble, perhaps
    async with asyncio.timeout(DEADLINE_S):
        reader, destination = await come.get()
        assert ControlReader().feed(await reader.readexactly(15)) == [b"message"]
    source.close()
    destination.close()


@pytest.mark.parametrize("kind", [FrameKind.CONTROL_HELLO, FrameKind.BULK_HELLO])
@pytest.mark.parametrize(
    ("session", "token"), [(SESSION, b"x" * 32), (b"session2", TOKEN), (b"session2", b"x" * 32)]
)
async def test_a_wrong_token_or_session_is_closed_and_fails_nothing(listener, kind, session, token):
    bulk = IncomingSession(LINK, [PAGES])
    listener.expect(SESSION, TOKEN, lambda *_: pytest.fail("was let in"))
    listener.admit_bulk(bulk)
    preamble = encode_preamble(Preamble(kind, session, token, 0, 1))
    assert await is_refused(listener.port, preamble)
    assert bulk.failure is None
    await bulk.close()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n" * 20, bytes(84), b"\xff" * 84])
async def test_a_stranger_is_closed(listener, data):
    listener.expect(SESSION, TOKEN, lambda *_: pytest.fail("was let in"))
    assert await is_refused(listener.port, data)


async def test_who_says_nothing_is_closed_in_time(listener, monkeypatch):
    monkeypatch.setattr(listener_module, "PREAMBLE_TIMEOUT_S", 0.05)
    assert await is_refused(listener.port, b"half a preamble")


async def test_a_bulk_connection_before_its_time_is_closed(listener):
    listener.expect(SESSION, TOKEN, lambda *_: None)
    assert await is_refused(listener.port, BulkWriter(LINK, 0).preamble(TOKEN))


async def test_a_session_that_was_forgotten_is_closed(listener):
    listener.expect(SESSION, TOKEN, lambda *_: pytest.fail("was let in"))
    listener.forget(SESSION)
    listener.forget(SESSION)
    preamble = encode_preamble(Preamble(FrameKind.CONTROL_HELLO, SESSION, TOKEN))
    assert await is_refused(listener.port, preamble)


async def test_bulk_cannot_be_admitted_for_a_session_that_nobody_expects(listener):
    session = IncomingSession(LINK, [PAGES])
    with pytest.raises(LocalProtocolError, match="not expected"):
        listener.admit_bulk(session)
    await session.close()


async def test_too_many_strangers_do_not_grow_the_service(listener, monkeypatch):
    monkeypatch.setattr(listener_module, "UNKNOWN_CONNECTIONS_MAX", 2)
    silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
    assert await is_refused(listener.port, b"")
    for _, writer in silent:
        writer.close()


async def test_a_taken_port_is_said_plainly():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UnreachableError, match="cannot listen"),
    ):
        await LinkListener.open("127.0.0.1", taken.getsockname()[1])


def test_it_works_on_uvloop_too():
    async def scenario() -> None:
        async with direct(2, 2048) as link:
            link.here[0].stamp(range(2048), 1)
            await link.move(1, work(0, link.here[0], runs((0, 2048))))
            assert (link.here[0].pages == link.there[0].pages).all()

    uvloop.run(scenario())
