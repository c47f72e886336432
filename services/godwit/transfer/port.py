"""The direct link, as the services of a host use it: who dials, who accepts, what comes of it.

The real ones are ``connection.open_control``, ``listener.LinkListener`` and
``receiver.IncomingSession``; the simulator has its own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol, TypeAlias

from godwit_protocol.bulk import BulkLink, RoundTotals
from godwit_protocol.framing import Preamble


class ByteReader(Protocol):
    """As ``asyncio.StreamReader``."""

    async def read(self, n: int, /) -> bytes:
        """Up to ``n`` bytes; empty at the end. Raises ``OSError`` if the connection broke."""


class Abortable(Protocol):
    """As ``asyncio.WriteTransport``."""

    def abort(self) -> None:
        """Close at once. Idempotent."""


class ByteWriter(Protocol):
    """As ``asyncio.StreamWriter``."""

    @property
    def transport(self) -> Abortable:
        """What is written to."""

    def write(self, data: bytes, /) -> None:
        """Send, soon."""

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""

    def close(self) -> None:
        """Flush and close."""

    async def wait_closed(self) -> None:
        """Wait until it is closed. Raises ``OSError``."""


OnControl: TypeAlias = Callable[[ByteReader, ByteWriter], None]


class Dial(Protocol):
    """Opens the control connection of a session; see ``connection.open_control``."""

    async def __call__(
        self, host: str, port: int, session: bytes, token: bytes, /
    ) -> tuple[ByteReader, ByteWriter]:
        """Raises ``UnreachableError`` if nobody listens."""


class Content(Protocol):
    """Chunks that a destination host holds already, by what they contain."""

    def fill(self, digest: bytes, place: memoryview, /) -> bool:
        """Write the chunk with this ``digest.chunk_digest`` to ``place``, if it is held.

        True: ``place`` was digested after it was written, and is that chunk. False: it may hold
        anything. Called by several threads at once; raises nothing.
        """


class BulkSession(Protocol):
    """The bulk connections of one migration on its destination."""

    @property
    def link(self) -> BulkLink:
        """What it was made for."""

    def admit(self, preamble: Preamble, sock: socket.socket, /) -> None:
        """Serve a connection whose token was found right; takes the socket."""

    async def round_applied(self, round_number: int) -> RoundTotals:
        """Wait until every page of a round is in memory. Raises as ``IncomingSession`` does."""

    def seal(self, round_number: int) -> None:
        """That round is the last: nothing may come after it. Raises as ``IncomingSession`` does."""

    def applied_digest(self) -> bytes:
        """Of all that was applied so far; empty if it is not digested."""


class Acceptor(Protocol):
    """One listening port of a destination host; see ``listener.LinkListener``."""

    @property
    def port(self) -> int:
        """The port it listens on."""

    def expect(self, session: bytes, token: bytes, on_control: OnControl) -> None:
        """From now on give each control connection of ``session`` to ``on_control``."""

    def admit_bulk(self, session: BulkSession) -> None:
        """From now on give bulk connections to ``session``. Raises ``LocalProtocolError``."""

    def forget(self, session: bytes) -> None:
        """Take no more connections of ``session``. Idempotent."""
