"""The framing of a journal's records. Bytes in, payloads out.

A record is ``<payload length> <CRC-32 of the payload> <CRC-32 of these two> <payload>``, numbers as
u32 little-endian. A process or a host may die in the middle of a write, so the end of a journal may
be torn: bytes are missing, or are still zeros from a sector boundary on. That tail was never
acknowledged to anybody, and is cut. Any other damage, also in the last record, is lost history and
an error: a journal that forgot a decision silently would be worse than none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from .errors import CorruptError, InvalidInputError

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024
SECTOR_BYTES: Final = 512
"""A disk writes a sector wholly or not at all."""
_SUMMED: Final = struct.Struct("<II")
_HEADER: Final = struct.Struct("<III")


class JournalCorruptError(CorruptError):
    """A record is damaged, and not by a torn write. ``offset`` is where it begins, in bytes."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(
            f"the journal is damaged at byte {offset}: {reason}",
            hint="keep the file for inspection; an operator must decide",
        )
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Journaled:
    """What the bytes of a journal hold."""

    payloads: tuple[bytes, ...]
    whole_bytes: int
    """Where the last whole record ends; what follows is torn and is to be cut."""


def encode_record(payload: bytes) -> bytes:
    """Return the record of ``payload``, at most ``RECORD_BYTES_MAX`` bytes.

    Raises ``InvalidInputError``.
    """
    if len(payload) > RECORD_BYTES_MAX:
        raise InvalidInputError(
            f"a journal record of {len(payload)} bytes", hint=f"at most {RECORD_BYTES_MAX}"
        )
    return _header(len(payload), crc32(payload)) + payload


def decode_journal(data: bytes) -> Journaled:
    """Return all whole records of a journal.

    Raises ``JournalCorruptError`` for damage that a torn write cannot explain.
    """
    payloads: list[bytes] = []
    offset = 0
    while (payload := _next_payload(data, offset)) is not None:
        payloads.append(payload)
        offset += _HEADER.size + len(payload)
    return Journaled(tuple(payloads), offset)


def _next_payload(data: bytes, offset: int) -> bytes | None:
    """The payload of the record at ``offset``; None if only a torn tail, or nothing, is there."""
    start = offset + _HEADER.size
    if len(data) < start:
        return None
    length, payload_sum, _ = _HEADER.unpack_from(data, offset)
    if data[offset:start] != _header(length, payload_sum):
        _check_torn(data, offset, start, "its header does not match its checksum")
        return None
    end = start + length
    if end > len(data):
        return None
    payload = data[start:end]
    if crc32(payload) != payload_sum:
        _check_torn(data, offset, end, "its payload does not match its checksum")
        return None
    return payload


def _check_torn(data: bytes, offset: int, end: int, reason: str) -> None:
    """Return if the record is torn: the file ends in zeros that begin before ``end``.

    Raises ``JournalCorruptError`` otherwise.
    """
    written = max(len(data.rstrip(b"\0")), offset)
    hole = written if written == offset else -(-written // SECTOR_BYTES) * SECTOR_BYTES
    if hole >= min(end, len(data)):
        raise JournalCorruptError(offset, reason)


def _header(length: int, payload_sum: int) -> bytes:
    return _HEADER.pack(length, payload_sum, crc32(_SUMMED.pack(length, payload_sum)))
