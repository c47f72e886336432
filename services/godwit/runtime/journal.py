"""A service's journal: an append-only file of records that survives the service's death.

The framing of records is pure and in ``godwit_protocol.journal``; this module owns the file. All
calls block: an append takes some microseconds, a flush what the disk takes (0.1 to some ms), which
is meant to be waited for. It must not know what a record means.

Records are written over zeros that were flushed before. A file that grows with each record has
metadata to flush with it, and waits for whatever else the file system has to commit: a median of
0.6 to 1.2 ms was measured, and 140 ms at worst, where writing over takes 0.3 ms. It also means that
a disk which fills up cannot end a switchover that has begun: what a record needs is there before a
byte of it is written, and every journal keeps some room for its last records.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from godwit_protocol.errors import ConflictError, CorruptError, RefusedError
from godwit_protocol.journal import decode_journal, encode_record

JOURNAL_BYTES_MAX: Final = 256 * 1024 * 1024
RESERVED_BYTES: Final = 16 * 1024
"""How much the file grows at a time, zeros that are flushed at once."""
HEADROOM_BYTES: Final = 8 * 1024
"""What a journal keeps for the facts of a stun, which must not wait for more room, and for those of
an ending, which must be written also on a full disk.
"""
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Room(Enum):
    """What an append may do with the room that is kept."""

    LEAVE = 0
    """Nothing: if the disk has no more, the record is refused."""
    NEED = 1
    """Take it if the disk has no more."""
    TAKE = 2
    """Take it at once: the record cannot wait for more."""


class JournalFullError(RefusedError):
    """The disk has no room for the record. Nothing was appended; the journal is as good as it was,
    or, if it was to be begun, is not there.
    """


class JournalFailedError(CorruptError):
    """The disk did not take a record. Whether it is there is unknown until the journal is reopened,
    so that nothing may be appended after it.
    """


class Journal:
    """An open journal. One process holds it at a time; one thread uses it at a time."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._failed = False
        self._end = 0
        self._reserved = 0
        self._flushed = 0
        self.records: tuple[bytes, ...] = self._recover()
        """What had been appended when the journal was opened."""

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create the journal at ``path``, cutting a torn tail.

        Its directory is made if it is not there; see ``make_directory`` for one that is.

        Raises ``ConflictError`` if another process holds it, ``CorruptError`` if it is damaged,
        ``JournalFullError`` if the disk has no room for another file.
        """
        if not path.parent.exists():
            make_directory(path.parent)
        descriptor = _opened(path)
        try:
            _lock(path, descriptor)
            journal = cls(path, descriptor)
            _sync_directory(path.parent)  # a former life may have died before it did
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def append(self, payload: bytes, *, sync: bool, room: Room = Room.NEED) -> None:
        """Append one record. With ``sync`` it, and all before it, is on the disk on return.

        Without ``sync`` it survives the death of this process, but not of the host, until
        ``flush``. Raises ``InvalidInputError`` for a payload too large, ``JournalFullError`` if
        ``room`` is to be left and there is no other, and ``JournalFailedError`` if the disk fails;
        from then on the journal takes nothing more.
        """
        record = encode_record(payload, follows_flush=self._flushed == self._end)
        with self._failing_for_good():
            self._make_room(len(record), room)
            _write(self._descriptor, record, self._end)
            self._end += len(record)
        if sync:
            self.flush()

    def rehearse(self, payload: bytes) -> None:
        """Do all of an append but the writing: what was done just now is done faster again."""
        with contextlib.suppress(JournalFailedError), self._failing_for_good():
            record = encode_record(payload, follows_flush=self._flushed == self._end)
            _write(self._descriptor, record[:0], self._end)

    def flush(self) -> None:
        """Take to the disk what was appended and is not there. Raises ``JournalFailedError``."""
        with self._failing_for_good():
            if self._flushed < self._end:
                os.fdatasync(self._descriptor)
                self._flushed = self._end

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        self._failed = True
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Delete the journal, durably: on return no restart will find it again. Idempotent."""
        self.path.unlink(missing_ok=True)
        _sync_directory(self.path.parent)
        self.close()

    def clear(self) -> None:
        """Take all records out, durably, leave the file its room, and let go of it.

        Raises ``JournalFailedError``.
        """
        with self._failing_for_good():
            _write(self._descriptor, bytes(self._end), 0)
            os.fdatasync(self._descriptor)
        self.close()

    def _recover(self) -> tuple[bytes, ...]:
        size = os.fstat(self._descriptor).st_size
        if size > JOURNAL_BYTES_MAX:
            raise CorruptError(f"{self.path} has {size} bytes; a journal is never so large")
        data = os.pread(self._descriptor, size, 0)
        journaled = decode_journal(data)
        self._end = journaled.whole_bytes
        self._reserved = size
        if data[self._end :].strip(b"\0"):
            os.ftruncate(self._descriptor, self._end)
            self._reserved = self._end
        # What a former life wrote counts from now on. It is written again: what a disk failed to
        # take still reads as if it had, and is not flushed a second time.
        _write(self._descriptor, data[: self._end], 0)
        os.fsync(self._descriptor)
        self._flushed = self._end
        return journaled.payloads

    def _make_room(self, byte_count: int, room: Room) -> None:
        if room is Room.TAKE:
            return self._reserve(byte_count)
        try:
            return self._reserve(byte_count + HEADROOM_BYTES)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            if room is Room.LEAVE:
                raise _failure(self.path, error) from error
        return self._reserve(byte_count)

    def _reserve(self, byte_count: int) -> None:
        """Have zeros on the disk for so many bytes more."""
        while self._end + byte_count > self._reserved:
            _write(self._descriptor, bytes(RESERVED_BYTES), self._reserved)
            self._reserved += RESERVED_BYTES
            os.fdatasync(self._descriptor)

    @contextlib.contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        if self._failed:
            raise JournalFailedError(f"{self.path} failed before and must be reopened")
        try:
            yield
        except OSError as error:
            self._failed = True
            raise _broken(self.path, error) from error


def make_blank(path: Path) -> None:
    """Have a journal without a record lie at ``path``, durably, with the room of a new one.

    Raises ``JournalFullError`` if there is no room, ``JournalFailedError``: then it is not there.
    """
    fresh = unfinished(path)
    descriptor = _opened(fresh)
    try:
        os.ftruncate(descriptor, RESERVED_BYTES)
        _write(descriptor, bytes(RESERVED_BYTES), 0)
        os.fsync(descriptor)
    except OSError as error:
        fresh.unlink()
        raise _failure(path, error) from error
    finally:
        os.close(descriptor)
    move(fresh, path)


def unfinished(blank: Path) -> Path:
    """Where a file lies before it is the blank: it may hold anything, and no restart reads it."""
    return blank.with_suffix(".new")


def move(path: Path, to: Path) -> None:
    """Rename a journal that nobody holds, durably. Raises ``FileNotFoundError``."""
    path.rename(to)
    _sync_directory(to.parent)


def make_directory(directory: Path) -> None:
    """Have a directory, durably, and those above it: a file is lost with any of them. Idempotent.

    One above it that is there already was made by this function, or is the installation's.
    """
    if not directory.exists():
        make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
    if not directory.is_mount():
        with contextlib.suppress(PermissionError):  # who may not read there made nothing there
            _sync_directory(directory.parent)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: Path, error: OSError) -> JournalFullError | JournalFailedError:
    """What an error says that came before a byte of a record was written."""
    if error.errno not in NO_ROOM:
        return _broken(path, error)
    return JournalFullError(
        f"no room for a record in {path}: {error.strerror}", hint="free space on the host's disk"
    )


def _broken(path: Path, error: OSError) -> JournalFailedError:
    return JournalFailedError(
        f"{path} did not take a record: {error.strerror}",
        hint="look at the disk's space and health, then restart the service",
    )


def _write(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConflictError(
            f"{path} is held by another process", hint="stop the other copy of this service"
        ) from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
