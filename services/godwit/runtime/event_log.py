"""The event log port: what services need from a log, and nothing of how NATS gives it.

Subjects, streams and their rules are in ``godwit_protocol.subjects``. The one adapter is
``godwit.runtime.nats_log``; the simulator has its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from godwit_protocol.errors import ConflictError, RefusedError
from godwit_protocol.stored import Stored


class AppendConflictError(ConflictError):
    """The subject's last sequence was not the expected one. Nothing was stored."""


class LogFullError(RefusedError):
    """The stream, or the server's disk, has no room for the message. Nothing was stored."""


class LogReader(Protocol):
    """What can be read of an event log, live or from a file."""

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        """The last message of an exact subject, or None. Read from the stream's leader.

        Raises ``UnreachableError``.
        """

    def read(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """All messages matching any of ``subjects`` (wildcards allowed, all of one stream), in
        order, up to what was the end when the call was made; then it stops.

        Raises ``UnreachableError`` if the log is silent for its deadline.
        """

    def tail(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``read``, then joined to live messages without a gap or a double, until cancelled.

        Survives reconnects and server restarts by going on after the last sequence it gave.
        """


class EventLog(LogReader, Protocol):
    """An append-only log of subjects. All calls have a deadline; none retries for ever."""

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        expected_last_sequence: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        """Store one message and return its sequence.

        ``message_id`` makes a repeat within the deduplication window return the first one's
        sequence. ``expected_last_sequence`` is compare-and-set on this exact subject (0: it must be
        empty); if our own earlier attempt is what stands there, that is success.

        Raises ``AppendConflictError`` (nothing stored), ``InvalidInputError`` (too large, no such
        stream), ``LogFullError``, ``UnreachableError`` (no answer in time: it may or may not have
        been stored).
        """

    async def announce(self, subject: str, data: bytes) -> None:
        """Publish a live message that nobody may rely on (progress). Never waits for an answer."""

    def listen(self, subjects: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Live messages from now on, until cancelled; may lose some (the queue is bounded)."""

    async def close(self) -> None:
        """Flush and disconnect; bounded in time, never raises for a lost connection."""
