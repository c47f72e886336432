"""Framing of the direct link between two hosts: bytes in, frames out.

Every connection of the link opens with a preamble of ``PREAMBLE_BYTES``: the session it belongs to,
whether it is the control connection or one of the N bulk connections, and the secret token that the
destination gave out. What follows depends on which of the two it is.

On the control connection come messages, each behind its length and checksum: ``encode_control``,
``ControlReader``. What they say is the business of ``godwit_protocol.link``.

On a bulk connection come frames: a header of ``HEADER_BYTES``, which ``encode_header`` and
``decode_header`` translate, and a payload, which is not touched here. Which frames are legal when
is the business of ``godwit_protocol.bulk``.

This module knows neither sockets nor memory nor clocks.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from .errors import LocalProtocolError, RemoteProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

CONTROL_PAYLOAD_BYTES_MAX: Final = 8 << 20
"""A checkpoint has 1 MiB of the guest's and 4 of replies at most, and goes in one message."""
TOKEN_BYTES: Final = 32
SESSION_BYTES: Final = 8

_MAGIC: Final = b"GWLK"
_VERSION: Final = 2
# magic, version, kind, connection, session, sequence, round, region, first page, pages, payload
_FIELDS: Final = struct.Struct("<4sBBH8sQIIQII")
_CRC: Final = struct.Struct("<I")
_CONTROL: Final = struct.Struct("<II")

HEADER_BYTES: Final = _FIELDS.size + _CRC.size
PREAMBLE_BYTES: Final = HEADER_BYTES + TOKEN_BYTES


class FrameKind(IntEnum):
    """What a header announces."""

    CONTROL_HELLO = 1
    """Preamble of the control connection."""
    BULK_HELLO = 2
    """Preamble of a bulk connection; ``page_count`` is the number of bulk connections."""
    RUN = 3
    """A run of pages; the payload is the pages."""
    SCATTER = 4
    """Pages from anywhere in a region; the payload is their numbers (u64), then the pages."""
    ZERO = 5
    """A run of pages that are all zero; no payload."""
    ROUND_END = 6
    """The round is over on this connection; the payload is its totals."""
    END = 7
    """Nothing more comes on this connection."""
    ZERO_SCATTER = 8
    """Pages from anywhere in a region that are all zero; the payload is their numbers (u64)."""
    OFFER = 9
    """Whole chunks of a region that the destination may hold already; the payload is their numbers
    (u64), then their digests. It is answered on the same connection."""
    SPREAD = 14
    """From this round on pages go over ``page_count`` connections, the first ones; no payload."""
    RUN_LZ4 = 10
    """As RUN, the pages compressed; they are fewer bytes then."""
    SCATTER_LZ4 = 11
    """As SCATTER, the pages compressed."""
    RUN_ZSTD = 12
    """As RUN, the pages compressed."""
    SCATTER_ZSTD = 13
    """As SCATTER, the pages compressed."""


PREAMBLE_KINDS: Final = frozenset({FrameKind.CONTROL_HELLO, FrameKind.BULK_HELLO})


class Frame(msgspec.Struct, frozen=True):
    """A header's content."""

    kind: FrameKind
    session: bytes
    connection: int
    """Index of the bulk connection, from 0."""
    sequence: int
    """How many frames came before this one on its connection, the preamble included."""
    round_number: int = 0
    region: int = 0
    """Index into the machine's regions."""
    first_page: int = 0
    page_count: int = 0
    payload_bytes: int = 0


class Preamble(msgspec.Struct, frozen=True):
    """How a connection introduces itself. ``connection`` and ``connections`` are for bulk only."""

    kind: FrameKind
    session: bytes
    token: bytes
    connection: int = 0
    connections: int = 0


def session_of(migration_id: str) -> bytes:
    """The session id of a migration: ``SESSION_BYTES``, the same on both hosts. Not a secret."""
    return hashlib.blake2b(migration_id.encode(), digest_size=SESSION_BYTES).digest()


def encode_header(frame: Frame) -> bytes:
    """The ``HEADER_BYTES`` of a frame, checksum included."""
    fields = _FIELDS.pack(
        _MAGIC,
        _VERSION,
        frame.kind,
        frame.connection,
        frame.session,
        frame.sequence,
        frame.round_number,
        frame.region,
        frame.first_page,
        frame.page_count,
        frame.payload_bytes,
    )
    return fields + _CRC.pack(zlib.crc32(fields))


def decode_header(data: Buffer) -> Frame:
    """Read exactly ``HEADER_BYTES``. The numbers are those sent, not yet those allowed.

    Raises ``RemoteProtocolError`` for anything that is not an undamaged header of this version.
    """
    if len(data) != HEADER_BYTES:
        raise RemoteProtocolError(f"a header has {HEADER_BYTES} bytes, not {len(data)}")
    magic, version, kind, connection, session, *numbers = _FIELDS.unpack_from(data)
    if magic != _MAGIC:
        raise RemoteProtocolError(f"a header begins with {_MAGIC!r}, not {magic!r}")
    if version != _VERSION:
        raise RemoteProtocolError(
            f"the peer speaks version {version} of the link, this host {_VERSION}",
            hint="run the same release of Godwit on both hosts",
        )
    (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    if crc != zlib.crc32(data[: _FIELDS.size]):
        raise RemoteProtocolError("a header's checksum is wrong")
    try:
        known_kind = FrameKind(kind)
    except ValueError:
        raise RemoteProtocolError(f"there is no frame of kind {kind}") from None
    return Frame(known_kind, session, connection, *numbers)


def encode_preamble(preamble: Preamble) -> bytes:
    """The ``PREAMBLE_BYTES`` that open a connection.

    Raises ``LocalProtocolError`` if the session id or the token has a wrong length.
    """
    if len(preamble.token) != TOKEN_BYTES or len(preamble.session) != SESSION_BYTES:
        raise LocalProtocolError(
            f"a token has {TOKEN_BYTES} bytes, not {len(preamble.token)};"
            f" a session id has {SESSION_BYTES}, not {len(preamble.session)}"
        )
    frame = Frame(
        preamble.kind,
        preamble.session,
        preamble.connection,
        sequence=0,
        page_count=preamble.connections,
        payload_bytes=TOKEN_BYTES,
    )
    return encode_header(frame) + preamble.token


def decode_preamble(data: Buffer) -> Preamble:
    """Read exactly ``PREAMBLE_BYTES``. Whether the token is right is for the caller to say.

    Raises ``RemoteProtocolError`` if they are not a preamble.
    """
    if len(data) != PREAMBLE_BYTES:
        raise RemoteProtocolError(f"a preamble has {PREAMBLE_BYTES} bytes, not {len(data)}")
    frame = decode_header(data[:HEADER_BYTES])
    if frame.kind not in PREAMBLE_KINDS:
        raise RemoteProtocolError(f"a connection opened with {frame.kind.name}, not with a hello")
    if frame.sequence != 0 or frame.payload_bytes != TOKEN_BYTES:
        raise RemoteProtocolError("a hello is not the first frame, or carries no token")
    token = bytes(data[HEADER_BYTES:])
    return Preamble(frame.kind, frame.session, token, frame.connection, frame.page_count)


def encode_control(payload: Buffer) -> bytes:
    """One control message: its length and checksum, then ``payload``.

    Raises ``LocalProtocolError`` above ``CONTROL_PAYLOAD_BYTES_MAX``.
    """
    if len(payload) > CONTROL_PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(
            f"a control message has {len(payload)} bytes, over {CONTROL_PAYLOAD_BYTES_MAX}"
        )
    return _CONTROL.pack(len(payload), zlib.crc32(payload)) + bytes(payload)


class ControlReader:
    """Cuts the byte stream of a control connection, after its preamble, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._refused = False

    def feed(self, data: Buffer) -> list[bytes]:
        """The payloads that ``data`` completes, in order, however the stream is cut.

        Raises ``RemoteProtocolError`` for an oversized message or a wrong checksum. The connection
        is of no further use then; good messages fed together with the bad one are lost with it.
        """
        if self._refused:
            raise LocalProtocolError("a control reader was fed after it had refused its stream")
        self._buffer += data
        messages: list[bytes] = []
        taken_bytes = 0
        while (message := self._message_at(taken_bytes)) is not None:
            messages.append(message)
            taken_bytes += _CONTROL.size + len(message)
        del self._buffer[:taken_bytes]
        return messages

    def _message_at(self, start: int) -> bytes | None:
        if len(self._buffer) < start + _CONTROL.size:
            return None
        length, crc = _CONTROL.unpack_from(self._buffer, start)
        if length > CONTROL_PAYLOAD_BYTES_MAX:
            raise self._refusal(f"announces {length} bytes, over {CONTROL_PAYLOAD_BYTES_MAX}")
        end = start + _CONTROL.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(memoryview(self._buffer)[start + _CONTROL.size : end])
        if zlib.crc32(message) != crc:
            raise self._refusal("has a wrong checksum")
        return message

    def _refusal(self, fault: str) -> RemoteProtocolError:
        self._refused = True
        return RemoteProtocolError(f"a control message {fault}")
