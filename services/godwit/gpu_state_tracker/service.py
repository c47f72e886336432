"""One replica of the tracker: reads the ledgers and the events, and keeps the tracker going.

Knows which subjects matter and in which order they are read. It keeps nothing that the log does not
hold; one that dies is replaced by starting another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from godwit.catalogue.loading import load
from godwit.gpu_state_tracker.histories import Histories
from godwit.gpu_state_tracker.tracker import Tracker
from godwit.metrics.figures import Figures
from godwit.metrics.gpus import Gpus
from godwit.runtime.clock import Clock, SystemClock
from godwit.runtime.event_log import EventLog
from godwit.runtime.health import Health
from godwit.runtime.service import ServiceContext
from godwit.runtime.signing import Signer, open_signer
from godwit_protocol import subjects
from godwit_protocol.events import Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.roles.effects import Service
from godwit_protocol.stored import Stored

ARRIVALS_MAX: Final = 1_000
"""What is read ahead of the tracker; then reading waits."""
RETRY_S: Final = 1.0

_ANSWERS: Final = (
    rev.ReservationGranted,
    rev.ReservationRefused,
    rev.ReservationConfirmed,
    rev.ReservationReleased,
    rev.ReservationExpired,
)
_OF_MIGRATIONS: Final = (
    ev.MigrationRequested,
    rev.ReservationRequested,
    ev.MigrationEnded,
    *_ANSWERS,
)
_OF_MACHINES: Final = (
    rev.ReservationRequested,
    mev.MachineStarted,
    mev.MachineStartRefused,
    mev.MachineStopped,
)

LEDGERS: Final = (subjects.ledger("*"),)
EVENTS: Final = (
    subjects.inventory("*"),
    *(subjects.migration("*", "*", kind.TYPE) for kind in _OF_MIGRATIONS),
    *(subjects.machine("*", "*", kind.TYPE) for kind in _OF_MACHINES),
    *(
        subjects.addressed("*", Service.SOURCE_HOST, "machine", "*", Lane.TRACKER, kind.TYPE)
        for kind in _ANSWERS
    ),
    subjects.addressed(
        "*",
        Service.DESTINATION_HOST,
        "migration",
        "*",
        Lane.COORDINATOR,
        ev.PreparationOrdered.TYPE,
    ),
)

_log: Final = structlog.get_logger(__name__)


async def main(context: ServiceContext) -> None:
    """The service's process."""
    name = context.config.tracker_id
    site = context.config.catalogue_file
    clock = SystemClock()
    signer = open_signer(context.config.signing_key)
    context.tasks.create_task(Histories(context.log, clock, name, signer).run())
    await run(
        context.log,
        clock,
        name,
        context.tasks,
        context.health,
        site_catalogue=site,
        signer=signer,
        figures=context.figures,
    )


async def run(
    log: EventLog,
    clock: Clock,
    name: str,
    tasks: asyncio.TaskGroup,
    health: Health,
    *,
    site_catalogue: Path | None = None,
    signer: Signer | None = None,
    figures: Figures | None = None,
) -> None:
    """Fold the history, then follow the log until cancelled.

    Raises ``CatalogueFileError`` if ``site_catalogue`` cannot be used.
    """
    catalogue = load(site_catalogue)
    tracker = Tracker(log, clock, name, catalogue, signer)
    if figures is not None:
        figures.ask(Gpus(lambda: tracker.pictures, catalogue).read)
    await serve(tracker, log, tasks, health)


async def serve(tracker: Tracker, log: EventLog, tasks: asyncio.TaskGroup, health: Health) -> None:
    """Let the tracker learn the history, then all that comes, until cancelled."""
    last = [await _fold_history(log, filters, tracker) for filters in (LEDGERS, EVENTS)]
    await tracker.begin()
    arrivals: asyncio.Queue[Stored] = asyncio.Queue(ARRIVALS_MAX)
    for filters, after in zip((LEDGERS, EVENTS), last, strict=True):
        tasks.create_task(_follow(log, filters, after, arrivals))
    health.ready = True
    _log.info("ready", tracker=tracker.name)
    await _work(tracker, arrivals)


async def _fold_history(log: EventLog, filters: Sequence[str], tracker: Tracker) -> int:
    """Return the last sequence that was folded."""
    last_sequence = 0
    async for stored in log.read(filters):
        await tracker.learn(stored)
        last_sequence = stored.sequence
    return last_sequence


async def _follow(
    log: EventLog, filters: Sequence[str], after: int, arrivals: asyncio.Queue[Stored]
) -> None:
    async for stored in log.tail(filters, after_sequence=after):
        await arrivals.put(stored)


async def _work(tracker: Tracker, arrivals: asyncio.Queue[Stored]) -> None:
    loop = asyncio.get_running_loop()
    retry_at_s = loop.time() + RETRY_S
    while True:
        if loop.time() >= retry_at_s:
            await tracker.retry()
            await tracker.end_lapsed()
            retry_at_s = loop.time() + RETRY_S
        try:
            async with asyncio.timeout_at(retry_at_s):
                stored = await arrivals.get()
        except TimeoutError:
            continue
        await tracker.learn(stored)
