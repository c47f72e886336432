"""A simulated disk: journals in the real framing, torn where the process died; slow; full.

What a process wrote survives its death, but for the write that it died in. What it did not flush
does not survive its host's loss of power, or survives in part.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Final

from godwit.host.disk import OpenJournal
from godwit.host.marks import MemoryMarks
from godwit.runtime.journal import JournalFailedError, JournalFullError, Room
from godwit_protocol.errors import ConflictError
from godwit_protocol.journal import decode_journal, encode_record

from .faults import Fault
from .process import DiedError, Process, World

SYNC_S: Final = 0.0004
SLOW_S: Final = 0.5
USED_UP_CHANCE: Final = 0.2
"""That a journal on a full disk has used up the room that it had: the real one hardly ever has."""
CURSORS_UNFLUSHED: Final = 20
"""Values of a cursor that may each be what a loss of power leaves, beside none at all."""


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    synced_bytes: int = 0
    holder: Process | None = None


@dataclass
class HostDisk:
    """All that one host keeps."""

    world: World
    full_until_s: float = 0.0
    files: dict[tuple[str, str], _File] = field(default_factory=dict)
    cursors: dict[str, list[int]] = field(default_factory=dict)
    """By service: every value since it was last certain which one is on the disk."""
    blanks: set[str] = field(default_factory=set)
    """Services for which a blank journal lies ready."""
    marks: MemoryMarks = field(default_factory=MemoryMarks)
    """They are never flushed: a loss of power takes them."""

    @property
    def is_full(self) -> bool:
        """Whether it takes nothing more."""
        return self.full_until_s > self.world.loop.time()

    def lose_power(self) -> None:
        """Of what was not flushed, some of the beginning stays; of a cursor's values, any."""
        dice = self.world.dice
        for file in self.files.values():
            kept_bytes = dice.randint(file.synced_bytes, len(file.data))
            del file.data[kept_bytes:]
            file.synced_bytes = kept_bytes
        for service, values in self.cursors.items():
            self.cursors[service] = [dice.choice(values)]
        self.marks = MemoryMarks()

    def seen_by(self, process: Process) -> ProcessDisk:
        """The disk as one process uses it."""
        return ProcessDisk(self, process)


class ProcessDisk:
    """``host.disk.Disk`` of one process."""

    def __init__(self, disk: HostDisk, process: Process) -> None:
        self._disk = disk
        self._process = process

    def journals(self, service: str) -> Journals:
        """As ``Disk.journals``."""
        return Journals(self._disk, self._process, service)

    def cursor(self, service: str) -> Cursor:
        """As ``Disk.cursor``."""
        return Cursor(self._disk, self._process, service)

    def marks(self) -> MemoryMarks:
        """As ``Disk.marks``."""
        return self._disk.marks


class Cursor:
    """``host.disk.Cursor``."""

    def __init__(self, disk: HostDisk, process: Process, service: str) -> None:
        self._disk = disk
        self._process = process
        self._service = service

    def read(self) -> int:
        """As ``Cursor.read``."""
        return self._disk.cursors.get(self._service, [0])[-1]

    def write(self, sequence: int) -> None:
        """As ``Cursor.write``."""
        self._process.step("write the inbox's cursor")
        if self._disk.is_full:
            raise no_space()
        values = self._disk.cursors.setdefault(self._service, [0])
        values.append(sequence)
        del values[1:-CURSORS_UNFLUSHED]


class Journals:
    """``host.disk.JournalFolder``."""

    def __init__(self, disk: HostDisk, process: Process, service: str) -> None:
        self._disk = disk
        self._process = process
        self._service = service

    def names(self) -> list[str]:
        """As ``JournalFolder.names``."""
        return sorted(name for service, name in self._disk.files if service == self._service)

    def exists(self, name: str) -> bool:
        """As ``JournalFolder.exists``."""
        return (self._service, name) in self._disk.files

    def open(self, name: str) -> Journal:
        """As ``JournalFolder.open``."""
        self._process.step("open a journal")
        return Journal(self._disk, self._process, (self._service, name))

    def keep_blank(self) -> None:
        """As ``JournalFolder.keep_blank``."""
        self._process.step("make a blank journal")
        if self._disk.is_full and self._service not in self._disk.blanks:
            raise JournalFullError("no room for a journal: no space left on device")
        self._disk.blanks.add(self._service)

    def begin(self, name: str) -> Journal:
        """As ``JournalFolder.begin``."""
        self._process.step("begin a journal")
        if self._disk.is_full and self._service not in self._disk.blanks:
            raise JournalFullError("no blank journal, and no room for one")
        self._disk.blanks.discard(self._service)
        return self.open(name)

    def end(self, name: str, journal: OpenJournal) -> None:
        """As ``JournalFolder.end``."""
        journal.remove()
        self._disk.blanks.add(self._service)


class Journal:
    """``host.disk.OpenJournal``, in the framing of the real one."""

    def __init__(self, disk: HostDisk, process: Process, key: tuple[str, str]) -> None:
        self._disk = disk
        self._process = process
        self._key = key
        self._failed = False
        self._file = disk.files.setdefault(key, _File())
        holder = self._file.holder
        if holder is not None and holder.alive:
            raise ConflictError(f"{key} is held by {holder.name}")
        self._file.holder = process
        journaled = decode_journal(bytes(self._file.data))
        if journaled.whole_bytes != len(self._file.data):
            del self._file.data[journaled.whole_bytes :]
            self._file.synced_bytes = journaled.whole_bytes
        self.records: tuple[bytes, ...] = journaled.payloads

    def append(self, payload: bytes, *, sync: bool, room: Room = Room.NEED) -> None:
        """As ``OpenJournal.append``."""
        process, weather, record = self._process, self._disk.world.weather, encode_record(payload)
        process.check()
        if self._failed:
            raise JournalFailedError("the journal failed before and must be reopened")
        if weather.strikes(Fault.TORN_WRITE):
            self._write_part(record)
            process.die("killed in the middle of a journal's write")
            raise DiedError
        if self._disk.is_full and room is Room.LEAVE:
            raise JournalFullError("no room for a record: no space left on device")
        if self._disk.is_full and self._disk.world.dice.random() < USED_UP_CHANCE:
            self._write_part(record)
            self._failed = True
            raise JournalFailedError("the journal did not take a record: no space left on device")
        self._file.data += record
        if sync:
            self.flush()
        process.step("journal written")

    def rehearse(self, payload: bytes) -> None:
        """As ``OpenJournal.rehearse``: nothing that another could see."""

    def flush(self) -> None:
        """As ``OpenJournal.flush``."""
        process, weather = self._process, self._disk.world.weather
        self._file.synced_bytes = len(self._file.data)
        slow = weather.strikes(Fault.DISK_SLOW)
        process.stop_for(SLOW_S * weather.dice.random() if slow else SYNC_S)

    def clear(self) -> None:
        """As ``OpenJournal.clear``."""
        self._file.data.clear()
        self._file.synced_bytes = 0
        self._file.holder = None

    def remove(self) -> None:
        """As ``OpenJournal.remove``."""
        self._process.step("remove a journal")
        self._disk.files.pop(self._key, None)
        self._file.holder = None

    def _write_part(self, record: bytes) -> None:
        self._file.data += record[: self._disk.world.dice.randrange(len(record) + 1)]


def no_space() -> OSError:
    """What a full disk says."""
    return OSError(errno.ENOSPC, "No space left on device")
