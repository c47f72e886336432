"""The framing of a journal's records. Bytes in, payloads out.

A record is ``<payload length> <CRC-32 of the payload> <CRC-32 of these two> <payload>``, numbers as
u32 little-endian. The second checksum also says whether all before the record had been flushed to
the disk when it was written. The file may be longer than its records: what follows them is zeros.

A process or a host may die in the middle of a write, or before what was written was flushed: any
sectors of that may have come to the disk, and the others are still zeros. Such a tail was never
acknowledged to anybody, and is cut. Any other damage, also in the last record, is lost history and
an error: a journal that forgot a decision silently would be worse than none. Damage is torn only if
a sector of it is missing, and no later record says that the damaged one had been flushed.
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
_FOLLOWS_UNFLUSHED: Final = 0xFFFFFFFF
"""The second checksum is inverted where not all before the record had been flushed."""


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
    """Where the last whole record ends; what follows is zeros, or torn and is to be cut."""


@dataclass(frozen=True, slots=True)
class _Record:
    """A record as its header tells it."""

    begin: int
    end: int
    payload_sum: int
    follows_flush: bool


def encode_record(payload: bytes, *, follows_flush: bool = True) -> bytes:
    """Return the record of ``payload``, at most ``RECORD_BYTES_MAX`` bytes.

    ``follows_flush``: all records before it have been flushed. Raises ``InvalidInputError``.
    """
    if len(payload) > RECORD_BYTES_MAX:
        raise InvalidInputError(
            f"a journal record of {len(payload)} bytes", hint=f"at most {RECORD_BYTES_MAX}"
        )
    length, payload_sum = len(payload), crc32(payload)
    header_sum = _header_sum(length, payload_sum, follows_flush=follows_flush)
    return _HEADER.pack(length, payload_sum, header_sum) + payload


def decode_journal(data: bytes) -> Journaled:
    """Return all whole records of a journal.

    Raises ``JournalCorruptError`` for damage that a torn write cannot explain.
    """
    payloads: list[bytes] = []
    offset = 0
    while (record := _whole_record(data, offset)) is not None:
        payloads.append(_payload(data, record))
        offset = record.end
    _check_torn(data, offset)
    return Journaled(tuple(payloads), offset)


def _whole_record(data: bytes, offset: int) -> _Record | None:
    record = _told_record(data, offset)
    if record is None or record.end > len(data):
        return None
    return record if crc32(_payload(data, record)) == record.payload_sum else None


def _told_record(data: bytes, offset: int) -> _Record | None:
    """The record at ``offset`` if there is a header; of its payload nothing is known."""
    if offset + _HEADER.size > len(data):
        return None
    length, payload_sum, header_sum = _HEADER.unpack_from(data, offset)
    end = offset + _HEADER.size + length
    for follows_flush in (True, False):
        if header_sum == _header_sum(length, payload_sum, follows_flush=follows_flush):
            return _Record(offset, end, payload_sum, follows_flush)
    return None


def _payload(data: bytes, record: _Record) -> bytes:
    return data[record.begin + _HEADER.size : record.end]


def _check_torn(data: bytes, offset: int) -> None:
    """Return if what begins at ``offset`` is torn, or nothing. Raises ``JournalCorruptError``."""
    written = len(data.rstrip(b"\0"))
    if offset >= written:
        return
    told = _told_record(data, offset)
    end = told.end if told is not None else offset + _HEADER.size
    if end <= len(data) and not _misses_a_sector(data, offset, end):
        what = "header" if told is None else "payload"
        raise JournalCorruptError(offset, f"its {what} does not match its checksum")
    for place in range(offset + 1, written):
        later = _whole_record(data, place)
        if later is not None and later.follows_flush:
            raise JournalCorruptError(offset, f"it had been flushed, as byte {place} says")


def _misses_a_sector(data: bytes, begin: int, end: int) -> bool:
    """Whether all of the bytes that lie in one sector are zero."""
    edges = [begin, *range(begin // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES, end, SECTOR_BYTES)]
    return any(
        not data[left:right].strip(b"\0")
        for left, right in zip(edges, [*edges[1:], end], strict=True)
    )


def _header_sum(length: int, payload_sum: int, *, follows_flush: bool) -> int:
    header_sum = crc32(_SUMMED.pack(length, payload_sum))
    return header_sum if follows_flush else header_sum ^ _FOLLOWS_UNFLUSHED
