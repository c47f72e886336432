"""A simulated disk: journals in the real framing, torn where the process died; slow; full.

What a process wrote survives its death, but for the write that it died in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from godwit.runtime.journal import JournalFailedError
from godwit_protocol.errors import ConflictError
from godwit_protocol.journal import decode_journal, encode_record

from .faults import Fault
from .process import DiedError, Process, World

SYNC_S: Final = 0.0004
SLOW_S: Final = 0.5


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    holder: Process | None = None


@dataclass
class HostDisk:
    """All that one host keeps."""

    world: World
    full_until_s: float = 0.0
    files: dict[tuple[str, str], _File] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)

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


class Cursor:
    """``host.disk.Cursor``."""

    def __init__(self, disk: HostDisk, process: Process, service: str) -> None:
        self._disk = disk
        self._process = process
        self._service = service

    def read(self) -> int:
        """As ``Cursor.read``."""
        return self._disk.cursors.get(self._service, 0)

    def write(self, sequence: int) -> None:
        """As ``Cursor.write``."""
        self._process.step("write the inbox's cursor")
        self._disk.cursors[self._service] = sequence


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
        del self._file.data[journaled.whole_bytes :]
        self.records: tuple[bytes, ...] = journaled.payloads

    def append(self, payload: bytes, *, sync: bool) -> None:
        """As ``OpenJournal.append``."""
        process, weather, record = self._process, self._disk.world.weather, encode_record(payload)
        process.check()
        if self._failed:
            raise JournalFailedError("the journal failed before and must be reopened")
        if weather.strikes(Fault.TORN_WRITE):
            self._write_part(record)
            process.die("killed in the middle of a journal's write")
            raise DiedError
        if self._disk.full_until_s > self._disk.world.loop.time():
            self._write_part(record)
            self._failed = True
            raise JournalFailedError("the journal did not take a record: no space left on device")
        self._file.data += record
        if sync:
            slow = weather.strikes(Fault.DISK_SLOW)
            process.stop_for(SLOW_S * weather.dice.random() if slow else SYNC_S)
        process.step("journal written")

    def remove(self) -> None:
        """As ``OpenJournal.remove``."""
        self._process.step("remove a journal")
        self._disk.files.pop(self._key, None)
        self._file.holder = None

    def _write_part(self, record: bytes) -> None:
        self._file.data += record[: self._disk.world.dice.randrange(len(record) + 1)]
