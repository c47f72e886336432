"""One file of chunks that a host holds: a region of a machine that runs here, or a plain file.

Only read, and never through a mapping: that would allocate a machine's holes. What was learnt of a
file outlives the open file, which would keep a machine's memory from being freed. It may be old:
whoever fills from it digests what came.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from godwit.transfer.digest import chunk_digest
from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.machine import PAGE_BYTES

CHUNK_BYTES: Final = CHUNK_PAGES * PAGE_BYTES

Identity: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and time of the last change, which memory does not have."""


class Digested(NamedTuple):
    """A chunk's digest, and when it was taken."""

    digest: bytes
    at_s: float
    """CLOCK_MONOTONIC."""


@dataclass(frozen=True, slots=True)
class Holding:
    """An open file of chunks. ``known``: by chunk number, shared by all who have it open."""

    fd: int
    size_bytes: int
    is_memory: bool
    """A machine writes it: what is known of it grows old."""
    known: dict[int, Digested]

    def whole_chunks(self) -> Iterator[int]:
        """The chunks without a hole. Takes two system calls a chunk at most."""
        position = 0
        while position < self.size_bytes:
            try:
                data = os.lseek(self.fd, position, os.SEEK_DATA)
                hole = os.lseek(self.fd, data, os.SEEK_HOLE)
            except OSError:  # nothing more, or none that the file system tells
                return
            yield from range(-(-data // CHUNK_BYTES), hole // CHUNK_BYTES)
            position = -(-hole // CHUNK_BYTES) * CHUNK_BYTES

    def read(self, chunk: int, place: memoryview) -> bool:
        """Copy a chunk to ``place``. Whether all of it could be read."""
        try:
            return os.preadv(self.fd, [place], chunk * CHUNK_BYTES) == CHUNK_BYTES
        except OSError:
            return False

    def learn(self, chunk: int, buffer: memoryview) -> None:
        """Digest a chunk, through ``buffer``."""
        if self.read(chunk, buffer):
            self.known[chunk] = Digested(chunk_digest(buffer), time.monotonic())
        else:
            self.known.pop(chunk, None)


def identity_of(status: os.stat_result, *, is_memory: bool) -> Identity:
    """What tells a file from all others, and from what it was before it was written anew."""
    changed_ns = 0 if is_memory else status.st_mtime_ns
    return status.st_dev, status.st_ino, status.st_size, changed_ns
