"""The world's time and randomness, gathered in one place so that a simulator can replace them."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Protocol

from godwit_protocol.ids import UUID7_RANDOM_BYTES, uuid7

_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Where a service gets its time from."""

    def wall_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch; may jump."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds; comparable between processes of one boot."""

    def boot(self) -> str:
        """Id of the boot that ``monotonic_ns`` counts in."""

    def new_id(self) -> str:
        """A fresh UUIDv7."""

    def secret(self, size_bytes: int) -> bytes:
        """Bytes that nobody can guess."""


class SystemClock:
    """The real one."""

    def wall_ns(self) -> int:
        """As ``Clock.wall_ns``."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """As ``Clock.monotonic_ns``."""
        return time.monotonic_ns()

    def boot(self) -> str:
        """As ``Clock.boot``."""
        return _boot_id()

    def new_id(self) -> str:
        """As ``Clock.new_id``."""
        return uuid7(time.time_ns(), os.urandom(UUID7_RANDOM_BYTES))

    def secret(self, size_bytes: int) -> bytes:
        """As ``Clock.secret``."""
        return os.urandom(size_bytes)


@cache
def _boot_id() -> str:
    return _BOOT_ID_FILE.read_text(encoding="ascii").strip()
