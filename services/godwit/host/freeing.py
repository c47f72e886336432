"""Ending a VMM that holds memory which nobody needs any more: tried again, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from godwit_protocol.errors import DeadlineError, GodwitError

TRIES_MAX: Final = 120
PACE_S: Final = 1.0

_log = structlog.get_logger(__name__)


async def freed(end_vmm: Callable[[], Awaitable[None]]) -> None:
    """Call ``end_vmm`` until it succeeds. A VMM that is dying is unreachable, and then gone.

    Raises ``DeadlineError`` after ``TRIES_MAX`` tries, ``PACE_S`` apart: the VMM is left to
    ``Orphans``.
    """
    for _ in range(TRIES_MAX):
        try:
            await end_vmm()
        except GodwitError as error:
            _log.warning("memory_not_freed_yet", error=error.message, code=error.code)
        else:
            return
        await asyncio.sleep(PACE_S)
    raise DeadlineError(f"a VMM could not be ended in {TRIES_MAX} tries")
