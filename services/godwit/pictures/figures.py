"""Figures as people read them: rounded, in the unit that suits. Pure; exact forms are elsewhere.

``godwit_protocol.quantities`` writes quantities so that they can be read back; here they are
rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

_SIZES: Final = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_RATES: Final = (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3))
_TIMES: Final = (
    ("h", 3600 * 10**9),
    ("min", 60 * 10**9),
    ("s", 10**9),
    ("ms", 10**6),
    ("µs", 1000),
)
SHORT_ID_CHARACTERS: Final = 8
BARS: Final = "▁▂▃▄▅▆▇█"


def size(size_bytes: int) -> str:
    """``4.0 GiB``, ``12 bytes``."""
    return _scaled(size_bytes, _SIZES) or f"{size_bytes} bytes"


def rate(bytes_per_second: float) -> str:
    """Bytes a second in bits, as links are sold: ``5.1 Gbit/s``."""
    return _scaled(bytes_per_second * 8, _RATES) or f"{bytes_per_second * 8:.0f} bit/s"


def duration(duration_ns: int) -> str:
    """``12.3 ms``, ``1.5 s``."""
    return _scaled(duration_ns, _TIMES) or f"{duration_ns} ns"


def exact(duration_ns: int) -> str:
    """Milliseconds to the microsecond: ``5.548 ms``."""
    return f"{duration_ns / 1e6:,.3f} ms"


def within(error_ns: int) -> str:
    """What a figure may be off by, to be put behind it: `` ± 80 µs``; nothing if it is exact."""
    return f" ± {-(-error_ns // 1000):,} µs" if error_ns else ""


def clock(wall_ns: int) -> str:
    """Local time of day with milliseconds: ``16:31:33.123``."""
    return datetime.fromtimestamp(wall_ns / 1e9).strftime("%H:%M:%S.%f")[:-3]


def day(wall_ns: int) -> str:
    """Local date: ``2026-11-23``."""
    return datetime.fromtimestamp(wall_ns / 1e9).strftime("%Y-%m-%d")


class Days:
    """Lines that tell only the time of day, with the day before the first of each."""

    def __init__(self, last: str = "") -> None:
        """``last``: the day that the reader knows already."""
        self._last = last

    def dated(self, wall_ns: int, line: str) -> str:
        """The next line, below its day if that is not the one of the line before."""
        last, self._last = self._last, day(wall_ns)
        return line if self._last == last else f"{self._last}\n{line}"


def day_and_clock(wall_ns: int) -> str:
    """Local date and time to the second."""
    return datetime.fromtimestamp(wall_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def count(number: int, noun: str) -> str:
    """``1 page``, ``12,345 pages``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short_id(identifier: str) -> str:
    """The end of a UUIDv7: its beginning is the time, alike for all of an hour."""
    return identifier[-SHORT_ID_CHARACTERS:]


def milliseconds(duration_ns: int) -> float:
    """Nanoseconds as milliseconds, to the microsecond."""
    return round(duration_ns / 1e6, 3)


def sparkline(values: Sequence[int], most: int) -> str:
    """A bar a value: nothing sent is the lowest, ``most`` the highest, each step between them a
    factor of four less, because rounds shrink by factors.
    """
    bars = []
    for value in values:
        steps_down = (max(most // max(value, 1), 1).bit_length() - 1) // 2
        bars.append(BARS[max(len(BARS) - 1 - steps_down, 1)] if value else BARS[0])
    return "".join(bars)


def _scaled(value: float, units: tuple[tuple[str, int], ...]) -> str:
    for unit, factor in units:
        if abs(value) >= factor:
            scaled = value / factor
            return f"{scaled:.0f} {unit}" if scaled >= 99.95 else f"{scaled:.1f} {unit}"
    return ""
