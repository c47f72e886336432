"""Shell completion of names that are in the log: quick, and silent when there is no cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit.pictures import reading
from godwit_protocol import subjects
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import MigrationRequested

from .connection import open_log

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog

COMPLETION_S_MAX: Final = 4.0


def machines(incomplete: str) -> list[str]:
    """Names of machines that begin with ``incomplete``."""
    return _beginning(incomplete, _machine_names)


def hosts(incomplete: str) -> list[str]:
    """Names of hosts that begin with ``incomplete``."""
    return _beginning(incomplete, reading.host_names)


def migrations(incomplete: str) -> list[str]:
    """Ids of migrations that begin with ``incomplete``."""
    return _beginning(incomplete, _migration_ids)


async def _migration_ids(log: EventLog) -> list[str]:
    asked = subjects.migration("*", Lane.OPERATOR, MigrationRequested.TYPE)
    requests = await reading.last_of_each(log, (asked,))
    return [subject.split(".")[3] for subject in requests]


async def _machine_names(log: EventLog) -> list[str]:
    registers = await reading.last_of_each(log, (subjects.register("*"),))
    return sorted(subject.rpartition(".")[2] for subject in registers)


def _beginning(incomplete: str, ask: Callable[[EventLog], Awaitable[Iterable[str]]]) -> list[str]:
    async def names() -> list[str]:
        directory = os.environ.get("GODWIT_DIR")
        async with (
            asyncio.timeout(COMPLETION_S_MAX),
            open_log(Path(directory) if directory else None) as log,
        ):
            return [name for name in await ask(log) if name.startswith(incomplete)]

    try:
        return asyncio.run(names())
    except (GodwitError, OSError, TimeoutError):
        return []
