"""An exported log as a place to read from: what is asked of the event log, a file answers.

Reads line by line, so that memory does not grow with the file; one that is packed (gzip), too, and
tables (Parquet).
It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from godwit.runtime import parquet_file
from godwit_protocol import subjects as names
from godwit_protocol.errors import CorruptError, InvalidInputError, NotFoundError
from godwit_protocol.replay import lines
from godwit_protocol.stored import Stored

CHUNK_BYTES: Final = 64 * 1024
"""What is decoded of it together stays in a processor's cache."""
TURN_EVERY: Final = 1024
"""Whoever reads a long file may be cancelled meanwhile."""
_GZIP: Final = b"\x1f\x8b"


def open_log_file(path: Path) -> io.BufferedReader:
    """Open a file for reading, unpacking it if it is packed. Raises ``OSError``."""
    opened: io.BufferedReader = io.BufferedReader(io.FileIO(path), CHUNK_BYTES)
    if opened.peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
        return opened
    opened.close()
    return io.BufferedReader(gzip.open(path, "rb"), CHUNK_BYTES)


def _is_table(opened: io.BufferedReader) -> bool:
    magic = parquet_file.MAGIC
    return opened.peek(len(magic))[: len(magic)] == magic


class LogFile:
    """The messages of one file, in its order, which is that of each stream."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def head(self) -> lines.FileHead:
        """The file's first line.

        Raises ``NotFoundError``, ``InvalidInputError``, ``CorruptError`` if it cannot be read.
        """
        with self._opened() as opened:
            if _is_table(opened):
                return parquet_file.read_head(self.path)
            return self._read_head(opened)

    def messages(self) -> Iterator[Stored]:
        """All messages of the file. Raises as ``head``."""
        with self._opened() as opened:
            if _is_table(opened):
                yield from parquet_file.read_messages(self.path)
                return
            self._read_head(opened)
            number = 2
            while chunk := opened.read(CHUNK_BYTES):
                # Each chunk is decoded at once, in a third of the time that its lines would take.
                found = self._decoded(chunk + opened.readline(lines.LINE_BYTES_MAX), number)
                number += len(found)
                yield from found

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        """As ``EventLog.last``."""
        del timeout_s
        found = None
        for message in self.messages():
            if message.subject == subject:
                found = message
        return found

    async def read(
        self, subjects: Sequence[str], *, after_sequence: int = 0
    ) -> AsyncIterator[Stored]:
        """As ``EventLog.read``."""
        is_wanted = names.filter_of(subjects)
        for place, message in enumerate(self.messages()):
            if place % TURN_EVERY == 0:
                await asyncio.sleep(0)
            if message.sequence > after_sequence and is_wanted(message.subject):
                yield message

    def tail(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``read``: nothing comes after a file's end."""
        return self.read(subjects, after_sequence=after_sequence)

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedReader]:
        try:
            opened = open_log_file(self.path)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no file {self.path}") from error
        except OSError as error:
            raise InvalidInputError(f"{self.path} cannot be read: {error.strerror}") from error
        with opened:
            try:
                yield opened
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise CorruptError(f"{self.path} cannot be unpacked: {error}") from error

    def _read_head(self, opened: IO[bytes]) -> lines.FileHead:
        try:
            return lines.decode_head(opened.readline(lines.LINE_BYTES_MAX))
        except CorruptError as error:
            raise CorruptError(f"{self.path}: {error.message}", hint=error.hint) from error

    def _decoded(self, chunk: bytes, number: int) -> list[Stored]:
        try:
            return lines.decode_lines(chunk, number)
        except CorruptError as error:
            raise CorruptError(f"{self.path}: {error.message}") from error
