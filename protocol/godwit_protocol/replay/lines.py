"""An exported log: one message a line, in JSON. Lossless: each line holds the stored bytes as well.

The first line says what the file is. Of each message the line has subject, sequence, time, headers
and ``data``, the stored bytes in base64: what hashes and signatures are made of. ``event`` is the
same for readers without MessagePack; nothing reads it back. It must not know where lines lie.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from ..errors import CorruptError
from ..stored import Stored

FORMAT_VERSION: Final = 1
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""An event's bytes in base64, its readable form, and room."""


class FileHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. ``of``: the migration that was exported, or nothing for a whole log."""

    godwit_log: int
    of: str = ""


class _Line(Stored, frozen=True):
    event: object = None


_encoder: Final = msgspec.json.Encoder()
_head_decoder: Final = msgspec.json.Decoder(FileHead)
_decoder: Final = msgspec.json.Decoder(Stored)
_BROKEN: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def encode_head(of: str = "") -> bytes:
    """Return the first line. ``of``: a migration's id."""
    return _encoder.encode(FileHead(godwit_log=FORMAT_VERSION, of=of)) + b"\n"


def encode_line(message: Stored) -> bytes:
    """Return a message's line."""
    line = _Line(
        subject=message.subject,
        sequence=message.sequence,
        time_ns=message.time_ns,
        headers=dict(message.headers),
        data=message.data,
        event=_readable(message.data),
    )
    return _encoder.encode(line) + b"\n"


def _readable(data: bytes) -> object:
    """The message's map, in what JSON can hold; None if it is none."""
    try:
        found = msgspec.msgpack.decode(data)
        msgspec.json.encode(found)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError, UnicodeError):
        return None
    return found


def decode_head(line: bytes) -> FileHead:
    """Return the first line. Raises ``CorruptError`` if it is no log, or a later version's."""
    try:
        head = _head_decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptError(
            f"it is no exported log: {error}", hint="'godwit replay export' writes such files"
        ) from error
    if head.godwit_log > FORMAT_VERSION:
        raise CorruptError(
            f"it has format version {head.godwit_log}, this release reads {FORMAT_VERSION}"
        )
    return head


def decode_lines(chunk: bytes, number: int) -> list[Stored]:
    """Return the messages of whole lines, of which the first has that number in its file.

    Raises ``CorruptError``, naming the line.
    """
    with suppress(*_BROKEN):
        found = _decoder.decode_lines(chunk)
        if len(found) == chunk.count(b"\n"):
            return found
    return [_decoded(line, place) for place, line in enumerate(chunk.splitlines(), number)]


def _decoded(line: bytes, number: int) -> Stored:
    try:
        return _decoder.decode(line)
    except _BROKEN as error:
        raise CorruptError(f"line {number} cannot be read: {error}") from error
