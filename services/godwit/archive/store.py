"""An archive as a directory: for each migration its log, packed, and a manifest.

The manifest is written last: a migration is in the archive if its manifest is. Each file is written
under another name, taken to the disk, and then named; what a crash leaves is written over. It must
not know any server.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from godwit.runtime.files import exists
from godwit.runtime.log_file import LogFile
from godwit_protocol.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError
from godwit_protocol.replay import lines
from godwit_protocol.replay.chains import note
from godwit_protocol.replay.findings import Verification
from godwit_protocol.replay.retention import Manifest, differing, manifest
from godwit_protocol.stored import Stored

LOG_SUFFIX: Final = ".ndjson.gz"
MANIFEST_SUFFIX: Final = ".manifest.json"
_FRESH_SUFFIX: Final = ".new"
_PACKING: Final = 6

_decoder: Final = msgspec.json.Decoder(Manifest)


class Step(StrEnum):
    """What has just been done for one migration, in this order."""

    WRITTEN = "written"
    READ_BACK = "read_back"
    NAMED = "named"
    DESCRIBED = "described"
    WORD_LEFT = "word_left"
    PURGED_IN_PART = "purged_in_part"
    PURGED = "purged"


def ignore(_: Step) -> None:
    """Nobody listens."""


class Store:
    """The files. Blocking; one process uses a directory at a time."""

    def __init__(self, directory: Path, reached: Callable[[Step], None] = ignore) -> None:
        self._directory = directory.absolute()
        self._reached = reached

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the directory, and hold it: who archives meanwhile is refused with
        ``ConflictError``. Raises ``InvalidInputError`` if it cannot be written.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(self._directory, os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidInputError(f"the archive cannot be written: {error}") from error
        try:
            _lock(held, self._directory)
            yield
        finally:
            os.close(held)

    def path(self, migration: str) -> Path:
        """A migration's log: what ``--from`` reads."""
        return self._directory / f"{migration}{LOG_SUFFIX}"

    def keep(self, migration: str, messages: Sequence[Stored], verified: Verification) -> Manifest:
        """Write a migration, read it back, and describe it; return what it says.

        Raises ``InvalidInputError`` if it cannot be written, ``CorruptError`` if what was read back
        is not what was written.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._fresh(self.path(migration))
            _write(fresh, _packed(migration, messages))
            self._reached(Step.WRITTEN)
            described = _described(fresh, messages, verified)
            self._reached(Step.READ_BACK)
            self._name(fresh, self.path(migration))
            self._reached(Step.NAMED)
            place = self._manifest(migration)
            _write(self._fresh(place), msgspec.json.format(msgspec.json.encode(described)))
            self._name(self._fresh(place), place)
            self._reached(Step.DESCRIBED)
        except OSError as error:
            raise InvalidInputError(f"the archive cannot be written: {error}") from error
        return described

    def holds(self, migration: str) -> bool:
        """Whether a migration is in the archive. Raises ``InvalidInputError``."""
        return exists(self._manifest(migration))

    def described(self, migration: str) -> Manifest:
        """A migration's manifest. Raises ``NotFoundError``, ``CorruptError``."""
        try:
            return _decoder.decode(self._manifest(migration).read_bytes())
        except FileNotFoundError as error:
            raise NotFoundError(f"migration {migration} is not in {self._directory}") from error
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptError(f"the manifest of {migration} cannot be read: {error}") from error

    def read(self, migration: str) -> list[Stored]:
        """A migration's messages, if they are those that its manifest describes.

        Raises ``NotFoundError``, ``CorruptError``.
        """
        described = self.described(migration)
        path = self.path(migration)
        messages = list(LogFile(path).messages())
        size, digest = path.stat().st_size, _sha256(path)
        found = note(messages)
        names = differing(described, messages, found, file_bytes=size, file_sha256=digest)
        if described.migration != migration:
            names.append("the file's name")
        if names:
            raise CorruptError(f"{path} is not what its manifest describes: {', '.join(names)}")
        return messages

    def ids(self) -> list[str]:
        """Every migration in the archive, those that were asked for first coming first.

        Raises ``NotFoundError`` if there is no such directory, and ``InvalidInputError`` if it
        cannot be read.
        """
        try:
            names = [path.name for path in self._directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"there is no archive {self._directory}") from error
        except OSError as error:
            told = f"the archive {self._directory} cannot be read: {error.strerror}"
            raise InvalidInputError(told) from error
        found = (name for name in names if name.endswith(MANIFEST_SUFFIX))
        return sorted(name.removesuffix(MANIFEST_SUFFIX) for name in found)

    def all(self) -> Iterator[Manifest]:
        """Every manifest, in the order of ``ids``."""
        return map(self.described, self.ids())

    def _manifest(self, migration: str) -> Path:
        return self._directory / f"{migration}{MANIFEST_SUFFIX}"

    def _fresh(self, path: Path) -> Path:
        return path.with_name(f".{path.name}{_FRESH_SUFFIX}")

    def _name(self, fresh: Path, path: Path) -> None:
        fresh.replace(path)
        directory = os.open(self._directory, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _lock(fd: int, directory: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConflictError(
            f"another process archives into {directory}", hint="wait until it is done"
        ) from error


def _packed(migration: str, messages: Sequence[Stored]) -> bytes:
    """The same messages always give the same bytes."""
    written = [lines.encode_head(migration), *map(lines.encode_line, messages)]
    return gzip.compress(b"".join(written), compresslevel=_PACKING, mtime=0)


def said(messages: Iterable[Stored]) -> list[tuple[str, bytes]]:
    """What of messages is their writers', and the same wherever they stand."""
    return [(each.subject, each.data) for each in messages]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _described(path: Path, messages: Sequence[Stored], verified: Verification) -> Manifest:
    read = list(LogFile(path).messages())
    if read != list(messages):
        raise CorruptError(f"{path} does not hold what was written to it")
    size, digest = path.stat().st_size, _sha256(path)
    return manifest(read, verified, note(read), file_bytes=size, file_sha256=digest)


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
