"""The event log with somebody who is told of each append: how long it took, what came of it.

The observer is called on the event loop, in a stun too, and must do next to nothing there. Knows
nothing of what is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

from godwit.runtime.nats_log import NatsLog
from godwit_protocol.cloudevents import CAUSE
from godwit_protocol.errors import GodwitError
from godwit_protocol.spans import with_traceparent


class AppendObserver(Protocol):
    """Who is told."""

    def appended(self, subject: str, data: bytes, seconds: float, cause: str) -> None:
        """A message was stored, after so long. ``cause``: what its headers say that it came of."""

    def failed(self, subject: str, error: GodwitError) -> None:
        """A compare-and-set was lost, or an append was refused, or not answered."""


class ObservedLog(NatsLog):
    """A ``NatsLog`` with an observer; without one it is just that."""

    observer: AppendObserver | None = None
    is_traced: bool = False
    """Whether the headers of a migration's events tell of its trace."""

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
        """As ``NatsLog.append``."""
        observer = self.observer
        if self.is_traced and headers:
            headers = with_traceparent(headers)
        began_s = perf_counter()
        try:
            sequence = await super().append(
                subject,
                data,
                message_id=message_id,
                expected_last_sequence=expected_last_sequence,
                headers=headers,
                timeout_s=timeout_s,
            )
        except GodwitError as error:
            if observer is not None:
                observer.failed(subject, error)
            raise
        if observer is not None:
            cause = headers.get(CAUSE, "") if headers else ""
            observer.appended(subject, data, perf_counter() - began_s, cause)
        return sequence
