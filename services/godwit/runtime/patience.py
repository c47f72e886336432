"""Wait for an event log that does not answer, or is full: again and again, but not for ever.

For calls that may be repeated, by services that keep nothing which the log does not hold. When
patience ends, so does the service: whoever starts it again finds all in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from godwit.runtime.event_log import EventLog, LogFullError
from godwit.runtime.lane import Sealed
from godwit_protocol.errors import UnreachableError
from godwit_protocol.stored import MESSAGE_ID_HEADER

PATIENCE_S_MAX: Final = 300.0
"""No call is repeated for longer."""
DECISION_S_MAX: Final = 3600.0
"""What a host was asked for, by somebody who may be waiting still, is tried for as long."""
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 5.0
READ_BACK_AFTER_S: Final = 60.0
"""Well within the log's deduplication window, after which a repeat would be stored twice."""

T = TypeVar("T")
_log: Final = structlog.get_logger(__name__)


async def patiently(call: Callable[[], Awaitable[T]], *, patience_s: float = PATIENCE_S_MAX) -> T:
    """Return what ``call`` returns, repeating it while it raises ``UnreachableError`` or
    ``LogFullError``.

    Raises that error once ``patience_s`` have passed, and any other at once.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience_s
    backoff_s = BACKOFF_S_MIN
    while True:
        try:
            return await call()
        except (UnreachableError, LogFullError) as error:
            if loop.time() + backoff_s > deadline_s:
                raise
            _log.warning("waiting for the event log", error=error.message, again_in_s=backoff_s)
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)


async def append_patiently(log: EventLog, sealed: Sealed) -> None:
    """Store an event that expects nothing of its subject, once, however long that takes.

    What was stored and never acknowledged is looked for before a late repeat: the log would not
    know it again. Raises as ``patiently``.
    """
    loop = asyncio.get_running_loop()
    since_s = loop.time()

    async def attempt() -> None:
        is_late = loop.time() - since_s > READ_BACK_AFTER_S
        if not (is_late and await _is_stored(log, sealed)):
            await sealed.append_to(log)

    await patiently(attempt)


async def _is_stored(log: EventLog, sealed: Sealed) -> bool:
    """Its subject may have other writers too: it need not be the last."""
    ids = [each.headers.get(MESSAGE_ID_HEADER) async for each in log.read([sealed.subject])]
    return sealed.message_id in ids
