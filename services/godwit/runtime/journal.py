"""A service's journal: an append-only file of records that survives the service's death.

The framing of records is pure and in ``godwit_protocol.journal``; this module owns the file. All
calls block: an append takes some microseconds, a flush what the disk takes (0.1 to some ms), which
is meant to be waited for. It must not know what a record means.

Records are written over zeros that were flushed before. A file that grows with each record has
metadata to flush with it, and waits for whatever else the file system has to commit: a median of
0.6 to 1.2 ms was measured, and 140 ms at worst, where writing over takes 0.3 ms. It also means that
a disk which fills up cannot end a switchover that has begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from godwit_protocol.errors import ConflictError, CorruptError
from godwit_protocol.journal import decode_journal, encode_record

JOURNAL_BYTES_MAX: Final = 256 * 1024 * 1024
RESERVED_BYTES: Final = 16 * 1024
"""How much the file grows at a time, zeros that are flushed at once."""
HEADROOM_BYTES: Final = 8 * 1024
"""What every append leaves free for the facts of a stun, which must not wait for more room."""


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

        Raises ``ConflictError`` if another process holds it, ``CorruptError`` if it is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        created = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(path, descriptor)
            journal = cls(path, descriptor)
            if created:
                _sync_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def append(self, payload: bytes, *, sync: bool, into_headroom: bool = False) -> None:
        """Append one record. With ``sync`` it, and all before it, is on the disk on return.

        Without ``sync`` it survives the death of this process, but not of the host, until
        ``flush``. ``into_headroom``: it is one of the few that room was left for. Raises
        ``InvalidInputError`` for a payload too large, ``JournalFailedError`` if the disk fails;
        from then on the journal takes nothing more.
        """
        record = encode_record(payload, follows_flush=self._flushed == self._end)
        with self._failing_for_good():
            self._reserve(len(record) if into_headroom else len(record) + HEADROOM_BYTES)
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
        os.fsync(self._descriptor)  # what a former life wrote counts from now on
        self._flushed = self._end
        return journaled.payloads

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
            raise JournalFailedError(
                f"{self.path} did not take a record: {error.strerror}",
                hint="look at the disk's space and health, then restart the service",
            ) from error


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
