"""The flag in shared memory that stops a guest: one word, the CLOCK_MONOTONIC ns of its raising.

The VMM owns the page; whoever is to stop the guest maps it long before, raises it, and sends
``Pause`` right after. The VMM looks at it between two steps, where it then stands still until the
command is there; a guest may look at it within a step. Whoever raised it may have died: so it is
good for a time only, and one that is older the VMM lowers.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from typing import Final, Self

STANDS_NS_MAX: Final = 100_000_000
"""How long the guest stands still for a command that does not come."""
WANTED_NS_MAX: Final = 5_000_000_000
"""How long whoever raised it waits for the end of a step."""
_BYTES: Final = mmap.PAGESIZE


class StopFlag:
    """One mapping of the word. Nobody has to close it: it goes when nobody holds it any more."""

    def __init__(self, fd: int) -> None:
        """Map ``fd``, and close it."""
        try:
            self._mapping = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        self._word = memoryview(self._mapping).cast("Q")

    @classmethod
    def allocate(cls) -> tuple[Self, int]:
        """A flag that is down, and a descriptor to give to others, who cannot shorten it."""
        fd = os.memfd_create("godwit-stop", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(os.dup(fd)), fd

    def close(self) -> None:
        """Let go of it now. It is not used after that."""
        self._word.release()
        self._mapping.close()

    def up(self) -> None:
        """Raise it, now."""
        self._word[0] = time.monotonic_ns()

    def down(self) -> None:
        """Lower it."""
        self._word[0] = 0

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for the guest to stop."""
        raised_ns = self._word[0]
        return raised_ns != 0 and time.monotonic_ns() - raised_ns < WANTED_NS_MAX

    def stands_ns(self, now_ns: int) -> int:
        """For how long the guest is still to stand; 0 if it is not. Lowers what is too old."""
        raised_ns = self._word[0]
        if not raised_ns:
            return 0
        left_ns = raised_ns + STANDS_NS_MAX - now_ns
        if left_ns <= 0:
            self.down()
        return min(max(left_ns, 0), STANDS_NS_MAX)
