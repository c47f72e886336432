"""Who listens there? A control connection of a session that is nobody's, and one answer.

A destination answers whoever connects with the probe's session and token, which are no secret: the
answer is its name and the version of the link that it speaks. Knows nothing of migrations.
"""

from __future__ import annotations

import asyncio
from typing import Final

from godwit_protocol import link
from godwit_protocol.errors import DeadlineError, UnreachableError
from godwit_protocol.framing import SESSION_BYTES, TOKEN_BYTES, ControlReader, encode_control

from .port import Acceptor, ByteReader, ByteWriter, Dial

PROBE_SESSION: Final = bytes(SESSION_BYTES)
PROBE_TOKEN: Final = bytes(TOKEN_BYTES)
PROBE_S_MAX: Final = 1.5
_READ_BYTES: Final = 4096


def answer_probes(listener: Acceptor, host: str) -> None:
    """From now on tell whoever probes ``listener`` that it is ``host``'s."""
    here = encode_control(link.encode(link.Here(version=link.LINK_VERSION, host=host)))

    def answer(_reader: ByteReader, writer: ByteWriter) -> None:
        writer.write(here)
        writer.close()

    listener.expect(PROBE_SESSION, PROBE_TOKEN, answer)


async def probe(dial: Dial, address: str, port: int) -> link.Here:
    """Ask who listens at ``address``.

    Raises ``UnreachableError`` if nobody does or the connection ends without an answer,
    ``DeadlineError`` after ``PROBE_S_MAX``, ``RemoteProtocolError`` if it is something else.
    """
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            reader, writer = await dial(address, port, PROBE_SESSION, PROBE_TOKEN)
            try:
                here = await _answer(reader)
            finally:
                writer.close()
    except TimeoutError as error:
        raise DeadlineError(f"no answer from {address}:{port} in {PROBE_S_MAX:g} s") from error
    except OSError as error:
        raise UnreachableError(f"the connection to {address}:{port} broke: {error}") from error
    if here is None:
        raise UnreachableError(f"{address}:{port} hung up and did not say who it is")
    return here


async def _answer(reader: ByteReader) -> link.Here | None:
    frames = ControlReader()
    while data := await reader.read(_READ_BYTES):
        for payload in frames.feed(data):
            return link.decode_here(payload)
    return None
