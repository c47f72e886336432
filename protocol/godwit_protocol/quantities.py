"""Sizes, rates and durations as people write them: ``256MiB``, ``5Gbit``, ``500ms``.

One unit after one decimal number, no spaces, no exponent. All arithmetic is exact: a quantity that
is not a whole number of bytes, bytes per second or nanoseconds is refused, and what ``format_…``
writes, ``parse_…`` reads back as the same number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from .errors import InvalidInputError

QUANTITY_MAX: Final = 2**63 - 1
_SHAPE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,9})?)([A-Za-z]*)", re.ASCII)

BYTE_UNITS: Final[Mapping[str, int]] = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
BIT_UNITS: Final[Mapping[str, int]] = {
    "bit": 1,
    "Kbit": 10**3,
    "Mbit": 10**6,
    "Gbit": 10**9,
    "Tbit": 10**12,
}
DURATION_UNITS_NS: Final[Mapping[str, int]] = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 24 * 3600 * 10**9,
}
_RATE_UNITS: Final[Mapping[str, Fraction]] = {
    **{unit: Fraction(bits, 8) for unit, bits in BIT_UNITS.items()},
    **{unit: Fraction(size) for unit, size in BYTE_UNITS.items()},
}


class QuantityError(InvalidInputError):
    """The text is no such quantity. ``text`` is what was given."""

    def __init__(self, what: str, text: str, hint: str) -> None:
        super().__init__(f"{text!r} is not a {what}", hint=hint)
        self.text = text


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` says, such as ``256MiB``, ``1.5GiB`` or ``4096`` (bytes).

    Raises ``QuantityError``.
    """
    units = {unit: Fraction(size) for unit, size in BYTE_UNITS.items()}
    return _parse("size", text, {"": Fraction(1), **units}, "write it like 256MiB, 1.5GiB or 4096")


def format_size(size_bytes: int) -> str:
    """Write bytes in the largest binary unit that divides them: ``256MiB``."""
    return _format(
        size_bytes, {unit: BYTE_UNITS[unit] for unit in ("B", "KiB", "MiB", "GiB", "TiB")}
    )


def parse_rate(text: str) -> int:
    """Return the bytes per second that ``text`` says, such as ``5Gbit`` or ``100MiB``.

    ``/s`` may follow. Raises ``QuantityError``, also for a part of a byte per second.
    """
    return _parse("rate", text.removesuffix("/s"), _RATE_UNITS, "write it like 5Gbit or 100MiB")


def format_rate(bytes_per_second: int) -> str:
    """Write bytes per second in the largest unit of bits that divides them: ``5Gbit``."""
    return _format(bytes_per_second * 8, BIT_UNITS)


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds that ``text`` says, such as ``500ms``, ``1.5s`` or ``10m``.

    A number without a unit is refused: nobody can tell what it means. Raises ``QuantityError``.
    """
    units = {unit: Fraction(ns) for unit, ns in DURATION_UNITS_NS.items()}
    return _parse("duration", text, units, "write it like 500ms, 30s or 10m")


def format_duration_ns(duration_ns: int) -> str:
    """Write nanoseconds in the largest unit that divides them: ``500ms``."""
    return _format(duration_ns, DURATION_UNITS_NS)


def _parse(what: str, text: str, units: Mapping[str, Fraction], hint: str) -> int:
    match = _SHAPE.fullmatch(text)
    unit = units.get(match[2]) if match else None
    if match is None or unit is None:
        raise QuantityError(what, text, f"{hint}; units: {' '.join(filter(None, units))}")
    value = Fraction(match[1]) * unit
    if value.denominator != 1 or value > QUANTITY_MAX:
        raise QuantityError(what, text, "it must be a whole number, and at most 2^63 - 1")
    return int(value)


def _format(value: int, units: Mapping[str, int]) -> str:
    """``units`` in ascending order."""
    fitting = [unit for unit, factor in units.items() if value % factor == 0 and value >= factor]
    unit = fitting[-1] if fitting else next(iter(units))
    return f"{value // units[unit]}{unit}"
