"""Identifiers. Time and randomness come in as arguments; nothing here reads a clock."""

from __future__ import annotations

import re
from typing import Final

UUID7_PATTERN: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)
UUID7_RANDOM_BYTES: Final = 10


def uuid7(unix_ns: int, random: bytes) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then ``random``.

    ``unix_ns`` is wall time in nanoseconds since the epoch; ``random`` is 10 bytes. Ids made in
    later milliseconds sort after earlier ones as text.
    """
    if len(random) != UUID7_RANDOM_BYTES:
        raise ValueError(f"a UUIDv7 takes {UUID7_RANDOM_BYTES} random bytes, not {len(random)}")
    milliseconds = (unix_ns // 1_000_000) & ((1 << 48) - 1)
    bits = int.from_bytes(random, "big")
    high = (milliseconds << 16) | 0x7000 | (bits >> 68) & 0x0FFF
    low = (0b10 << 62) | bits & ((1 << 62) - 1)
    text = f"{(high << 64) | low:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
