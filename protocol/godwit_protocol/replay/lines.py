"""An exported log: one message a line, in JSON. Lossless: each line holds the stored bytes as well.

The first line says what the file is. Of each message the line has subject, sequence, time, headers
and ``data``, the stored bytes in base64: what hashes and signatures are made of. ``event`` is the
same for readers without MessagePack; nothing reads it back. It must not know where lines lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class Headers(Mapping[str, str]):
    """A line's headers, read when somebody asks for one: it takes as long as the rest of the line.

    Raises ``CorruptError`` then, if they are no map of texts.
    """

    __slots__ = ("_fields", "_json")

    def __init__(self, json: bytes) -> None:
        self._json = json
        self._fields: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def _read(self) -> dict[str, str]:
        if self._fields is None:
            try:
                self._fields = _headers_decoder.decode(self._json)
            except _BROKEN as error:
                raise CorruptError(f"a message's headers cannot be read: {error}") from error
        return self._fields


class _Found(msgspec.Struct, frozen=True, gc=False):
    """A line as it is read."""

    subject: str
    sequence: int
    time_ns: int
    data: bytes
    headers: msgspec.Raw = msgspec.Raw(b"{}")


class _Line(Stored, frozen=True):
    event: object = None


_encoder: Final = msgspec.json.Encoder()
_head_decoder: Final = msgspec.json.Decoder(FileHead)
_headers_decoder: Final = msgspec.json.Decoder(dict[str, str])
_decoder: Final = msgspec.json.Decoder(_Found)
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
        if len(found) == _count_lines(chunk):
            # Copies: else whoever keeps one message would keep all that was read with it.
            return [
                Stored(it.subject, it.sequence, it.time_ns, it.data, Headers(bytes(it.headers)))
                for it in found
            ]
    return [_decoded(line, place) for place, line in enumerate(chunk.splitlines(), number)]


def _count_lines(chunk: bytes) -> int:
    """As ``chunk.count``, which looks at each byte; ``find`` skips over what is in a line."""
    count, end = 0, chunk.find(b"\n")
    while end >= 0:
        count, end = count + 1, chunk.find(b"\n", end + 1)
    return count


def _decoded(line: bytes, number: int) -> Stored:
    try:
        it = _decoder.decode(line)
    except _BROKEN as error:
        raise CorruptError(f"line {number} cannot be read: {error}") from error
    return Stored(it.subject, it.sequence, it.time_ns, it.data, Headers(bytes(it.headers)))
