"""Reading MessagePack that somebody else wrote. Whatever the bytes are, one typed error comes out.

Knows msgspec's ways of failing, and nothing of what is read.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from .errors import CorruptError, GodwitError

T = TypeVar("T")

UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""Broken or unfitting bytes, nesting deeper than the stack, text that is not UTF-8."""


def unpack(
    decoder: msgspec.msgpack.Decoder[T],
    data: bytes | msgspec.Raw,
    what: str,
    *,
    bytes_max: int,
    error: type[GodwitError] = CorruptError,
) -> T:
    """Return what ``decoder`` makes of ``data``; ``what`` names it in the error.

    Raises ``error`` if ``data`` has more than ``bytes_max`` bytes or cannot be read.
    """
    size = memoryview(data).nbytes
    if size > bytes_max:
        raise error(f"{what} has {size} bytes, the limit is {bytes_max}")
    try:
        return decoder.decode(data)
    except UNREADABLE as reason:
        raise error(f"{what} cannot be read: {reason}") from reason
