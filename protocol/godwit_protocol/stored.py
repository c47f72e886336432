"""A message as a log holds it, wherever it is: on a server, in a file, in an archive. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
"""Every stored message carries its message id in this header."""

EXPECTED_SEQUENCE_HEADER: Final = "Nats-Expected-Last-Subject-Sequence"
"""Of a message that was stored by compare-and-set: what the subject had to end with."""

FIRST_STORED_HEADER: Final = "Godwit-First-Stored"
"""Of a message that was put into a log anew: when another server stored it first, ns."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """One message as the log holds it."""

    subject: str
    sequence: int
    """Position in its stream, from 1. The only order across hosts."""
    time_ns: int
    """The log server's wall clock when it was stored, nanoseconds since the epoch."""
    data: bytes
    headers: Mapping[str, str] = {}

    def for_another_log(self, message_id: str) -> tuple[str, dict[str, str]]:
        """The message id (``message_id`` if it has none) and the headers to put it into another log
        with. There it does not stand after what it stood after here.
        """
        headers = {FIRST_STORED_HEADER: str(self.time_ns), **self.headers}
        headers.pop(EXPECTED_SEQUENCE_HEADER, None)
        return headers.pop(MESSAGE_ID_HEADER, message_id), headers

    def as_first_stored(self) -> Stored:
        """As it stood in the log that it comes from, if it was imported or restored."""
        told = self.headers.get(FIRST_STORED_HEADER, "")
        if not told.isdecimal():
            return self
        headers = {k: v for k, v in self.headers.items() if k != FIRST_STORED_HEADER}
        return msgspec.structs.replace(self, time_ns=int(told), headers=headers)
