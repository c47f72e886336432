"""Who listens there: a destination tells whoever asks, and anything else is an error in words."""

from __future__ import annotations

import asyncio
import socket

import pytest

from godwit.transfer import probe as probing
from godwit.transfer.connection import open_control
from godwit.transfer.listener import LinkListener
from godwit.transfer.probe import answer_probes, probe
from godwit_protocol.errors import DeadlineError, GodwitError, RemoteProtocolError, UnreachableError
from godwit_protocol.framing import encode_control
from godwit_protocol.link import LINK_VERSION


async def said_by(answer: bytes, *, hang_up: bool = True) -> GodwitError:
    """What probing somebody who answers so ends with."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if hang_up:
            await reader.read(1)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        with pytest.raises(GodwitError) as caught:
            await probe(open_control, "127.0.0.1", server.sockets[0].getsockname()[1])
    return caught.value


async def test_a_destination_tells_its_name_and_version() -> None:
    listener = await LinkListener.open("127.0.0.1")
    answer_probes(listener, "host-2")
    for _ in range(2):
        here = await probe(open_control, "127.0.0.1", listener.port)
        assert (here.host, here.version) == ("host-2", LINK_VERSION)
    port = listener.port
    await listener.close()
    with pytest.raises(UnreachableError, match=f"no direct link to 127.0.0.1:{port}"):
        await probe(open_control, "127.0.0.1", port)


async def test_a_listener_that_was_told_of_no_probes_hangs_up() -> None:
    listener = await LinkListener.open("127.0.0.1")
    with pytest.raises(UnreachableError):
        await probe(open_control, "127.0.0.1", listener.port)
    await listener.close()


async def test_what_is_no_answer_is_said_so() -> None:
    assert isinstance(await said_by(encode_control(b"\x01")), RemoteProtocolError)
    assert isinstance(await said_by(b""), UnreachableError)


async def test_a_port_that_takes_and_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "PROBE_S_MAX", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineError):
        await probe(open_control, "127.0.0.1", silent.getsockname()[1])
