"""An exported log: one message a line, in JSON. Lossless: each line holds the stored bytes as well.

The first line says what the file is. Of each message the line has subject, sequence, time, headers
and ``data``, the stored bytes in base64: what hashes and signatures are made of. ``event`` is the
same for readers without MessagePack; nothing reads it back. It must not know where lines lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from .. import codec, subjects
from ..errors import CorruptError
from ..events import Recorded

FORMAT_VERSION: Final = 1
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""An event's bytes in base64, its readable form, and room."""


class FileHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. ``of``: the migration that was exported, or nothing for a whole log."""

    godwit_log: int
    of: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message as the log held it. ``time_ns``: the server's wall clock when it was stored."""

    subject: str
    sequence: int
    time_ns: int
    data: bytes
    headers: dict[str, str] = {}


class _Line(Message, frozen=True, kw_only=True):
    event: object = None


class Bare(msgspec.Struct, frozen=True, gc=False):
    """What of a message an event is decoded from."""

    subject: str
    sequence: int
    data: bytes


_EVENT: Final = b',"event":'
_EVENT_SUBJECTS: Final = tuple(
    subject.rstrip("*>") for subject in subjects.STREAM_SUBJECTS[subjects.EVENTS]
)
_bare_decoder: Final = msgspec.json.Decoder(Bare)
_encoder: Final = msgspec.json.Encoder()
_head_decoder: Final = msgspec.json.Decoder(FileHead)
_decoder: Final = msgspec.json.Decoder(Message)


def encode_head(of: str = "") -> bytes:
    """Return the first line. ``of``: a migration's id."""
    return _encoder.encode(FileHead(godwit_log=FORMAT_VERSION, of=of)) + b"\n"


def encode_line(message: Message) -> bytes:
    """Return a message's line."""
    line = _Line(
        subject=message.subject,
        sequence=message.sequence,
        time_ns=message.time_ns,
        headers=message.headers,
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


def decode_line(line: bytes, number: int) -> Message:
    """Return the message in line ``number``. Raises ``CorruptError``."""
    try:
        return _without_event(line) or _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptError(f"line {number} cannot be read: {error}") from error


def decode_events(numbered: Iterable[tuple[int, bytes]]) -> Iterator[Recorded]:
    """The events in numbered lines; other streams' messages are passed over.

    As ``decode_line`` and ``codec.decode``, in half the time: nothing else of a line is decoded,
    and nothing is called for one that need not be.
    """
    decode_bare, decode = _bare_decoder.decode, codec.decode
    for number, line in numbered:
        try:
            bare = decode_bare(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptError(f"line {number} cannot be read: {error}") from error
        if bare.subject.startswith(_EVENT_SUBJECTS):
            yield decode(bare.data, bare.sequence)


def event_in(message: Message) -> Recorded | None:
    """The event in a message; None if it is another stream's. Raises as ``codec.decode``."""
    if not message.subject.startswith(_EVENT_SUBJECTS):
        return None
    return codec.decode(message.data, message.sequence)


def _without_event(line: bytes) -> Message | None:
    """Half of the line is for other readers. Where this cuts anything else, it is no JSON."""
    try:
        return _decoder.decode(line[: line.find(_EVENT)] + b"}")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
