"""The right to reset which pages of a machine count as written: one holder at a time.

Two that reset the kernel's write-protect bits would each take pages from the other: a migration
would lose writes. So whoever resets holds a lock on a file of the machine's folder, across
processes and lives of services; it is free as soon as its holder is dead. The file's number says
how often it was taken: whoever has let go of it can tell whether another reset since.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import Final, Self

from godwit_protocol.errors import DeadlineError

from .paths import MachineFolder

TAKE_S_MAX: Final = 5.0
"""A look at what a machine writes holds it for one sweep of the page table, which is far less."""
TAKE_PACE_S: Final = 0.002
_NUMBER_BYTES: Final = 8


class TrackingLease:
    """The lease, held. ``number`` is that of this taking."""

    def __init__(self, fd: int) -> None:
        """``fd`` is the lease's file, locked; it is closed by ``release``."""
        self._fd = fd
        self.number = _number_in(fd) + 1
        os.pwrite(fd, self.number.to_bytes(_NUMBER_BYTES, "little"), 0)

    @classmethod
    def try_take(cls, folder: MachineFolder) -> Self | None:
        """Take it, unless somebody holds it. Raises ``OSError``."""
        fd = os.open(folder.tracking, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        try:
            return cls(fd)
        except OSError:  # a full disk must not leave it locked
            os.close(fd)
            raise

    @classmethod
    async def take(cls, folder: MachineFolder) -> Self:
        """Take it as soon as it is free. Raises ``DeadlineError`` after ``TAKE_S_MAX``."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + TAKE_S_MAX
        while (lease := cls.try_take(folder)) is None:
            if loop.time() > give_up_s:
                raise DeadlineError(f"somebody else tracks the memory of {folder.path.name}")
            await asyncio.sleep(TAKE_PACE_S)
        return lease

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def times_taken(folder: MachineFolder) -> int:
    """The number of the last taking; 0 if it was never taken."""
    try:
        fd = os.open(folder.tracking, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return _number_in(fd)
    finally:
        os.close(fd)


def _number_in(fd: int) -> int:
    return int.from_bytes(os.pread(fd, _NUMBER_BYTES, 0), "little")
