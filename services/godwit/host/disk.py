"""A host's disk, as its services use it: journals of migrations, how far an inbox was read, and
what was seen of registers.

The port, and the real one: a directory. What is kept must survive the services' restarts.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from godwit.runtime.journal import (
    Journal,
    JournalFullError,
    Room,
    make_blank,
    make_directory,
    move,
    unfinished,
)

from .marks import MarkFiles, Marks

_SUFFIX: Final = ".journal"
_BLANK_FILE: Final = "blank"
_CURSOR_FILE: Final = "inbox.cursor"


class OpenJournal(Protocol):
    """See ``runtime.journal.Journal``, which is the real one."""

    records: tuple[bytes, ...]
    """What had been appended when the journal was opened."""

    def append(self, payload: bytes, *, sync: bool, room: Room = Room.NEED) -> None:
        """Append one record. Raises ``JournalFullError``, ``JournalFailedError``."""

    def rehearse(self, payload: bytes) -> None:
        """Do all of an append but the writing."""

    def flush(self) -> None:
        """Take to the disk what was appended. Raises ``JournalFailedError``."""

    def clear(self) -> None:
        """Take all records out, durably, leave the file its room, and let go of it."""

    def remove(self) -> None:
        """Delete the journal, durably. Idempotent."""


class JournalFolder(Protocol):
    """The journals of one service, one a migration."""

    def names(self) -> list[str]:
        """Migrations that have a journal, sorted."""

    def exists(self, name: str) -> bool:
        """Whether the migration has one."""

    def open(self, name: str) -> OpenJournal:
        """Open or create it, cutting a torn tail.

        Raises ``ConflictError``, ``CorruptError``, ``JournalFullError``.
        """

    def keep_blank(self) -> None:
        """See that a blank journal lies ready, with the room of a new one: so that a migration can
        be begun, if only to be refused, when the disk has no more. Idempotent.

        Raises ``JournalFullError`` if there is none and no room for it.
        """

    def begin(self, name: str) -> OpenJournal:
        """Make the blank the migration's journal; without a blank, as ``open``."""

    def end(self, name: str, journal: OpenJournal) -> None:
        """Delete the journal, durably; or make it the blank if there is none. Idempotent."""


class Cursor(Protocol):
    """One number, replaced atomically. It may be lost; an older one may come back."""

    def read(self) -> int:
        """What was written last; 0 if that is lost."""

    def write(self, sequence: int) -> None:
        """Replace it. Raises ``OSError``: the older one stays."""


class Disk(Protocol):
    """What the services of one host keep."""

    def journals(self, service: str) -> JournalFolder:
        """The journals of a service of the host."""

    def cursor(self, service: str) -> Cursor:
        """How far a service has read its inbox."""

    def marks(self) -> Marks:
        """The newest that was seen of each machine's register."""


class HostDirectory:
    """The disk as a directory that the services of a host share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def journals(self, service: str) -> JournalFiles:
        """As ``Disk.journals``; the directory is made if it is not there."""
        return JournalFiles(_made(self._path / "journals" / service))

    def cursor(self, service: str) -> CursorFile:
        """As ``Disk.cursor``."""
        return CursorFile(_made(self._path / service) / _CURSOR_FILE)

    def marks(self) -> MarkFiles:
        """As ``Disk.marks``."""
        return MarkFiles(_made(self._path / "registers"))


class JournalFiles:
    """Journals as files of one directory. They may be ended in another thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._alone = Lock()

    def names(self) -> list[str]:
        """As ``JournalFolder.names``."""
        return sorted(path.stem for path in self._directory.glob(f"*{_SUFFIX}"))

    def exists(self, name: str) -> bool:
        """As ``JournalFolder.exists``."""
        return self._path(name).exists()

    def open(self, name: str) -> Journal:
        """As ``JournalFolder.open``."""
        return Journal.open(self._path(name))

    def keep_blank(self) -> None:
        """As ``JournalFolder.keep_blank``."""
        with self._alone:
            self._keep_blank()

    def begin(self, name: str) -> Journal:
        """As ``JournalFolder.begin``."""
        with self._alone, suppress(FileNotFoundError):
            move(self._blank, self._path(name))
        return self.open(name)

    def end(self, name: str, journal: OpenJournal) -> None:
        """As ``JournalFolder.end``."""
        with self._alone:
            try:
                self._keep_blank()
            except JournalFullError:
                spent = unfinished(self._blank)
                move(self._path(name), spent)  # half cleared, it would be a damaged journal
                journal.clear()
                move(spent, self._blank)
            journal.remove()

    def _keep_blank(self) -> None:
        if not self._blank.exists():
            make_blank(self._blank)

    @property
    def _blank(self) -> Path:
        return self._directory / _BLANK_FILE

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"


class CursorFile:
    """A cursor in a small file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int:
        """As ``Cursor.read``."""
        try:
            return int(self._path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def write(self, sequence: int) -> None:
        """As ``Cursor.write``."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(sequence), encoding="ascii")
        os.replace(fresh, self._path)  # noqa: PTH105  # atomic, and says so


def _made(directory: Path) -> Path:
    make_directory(directory)
    return directory
