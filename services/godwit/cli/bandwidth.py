"""``godwit migration set``: change what a migration may take of the link, while it runs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from godwit.pictures import reading
from godwit.pictures.figures import short_id
from godwit.pictures.migrations import as_json, find_id, find_migration
from godwit_protocol import subjects
from godwit_protocol.errors import ConflictError, DeadlineError
from godwit_protocol.events import Recorded
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.pacing import format_bandwidth, parse_bandwidth
from godwit_protocol.projections import MigrationSummary

from . import output
from .connection import (
    DirectoryOption,
    JsonOption,
    append_as_operator,
    open_log,
    requested_by,
    run,
)
from .migration_options import BandwidthOption, MigrationArgument

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog

SET_S_MAX: Final = 90.0
"""A request that comes before the start waits until the destination is prepared."""


def set_bandwidth(
    migration: MigrationArgument,
    bandwidth: BandwidthOption,
    directory: DirectoryOption = None,
    as_json_: JsonOption = False,
) -> None:
    """Change a migration while it runs: how much of the link it may take until its stun."""
    bytes_per_second = parse_bandwidth(bandwidth)

    async def work() -> MigrationSummary:
        async with open_log(directory) as log:
            return await order_bandwidth(log, await find_id(log, migration), bytes_per_second)

    summary = run(work())
    if as_json_:
        output.print_json(as_json(summary))
    else:
        told = format_bandwidth(summary.limits.bandwidth_bytes_per_second)
        output.print_line(f"migration {summary.id} has a bandwidth of {told} until its stun")


async def order_bandwidth(log: EventLog, migration: str, bytes_per_second: int) -> MigrationSummary:
    """Ask for another bandwidth, 0: all there is, and wait until it is ordered.

    Raises ``NotFoundError``, ``ConflictError`` if the migration is over, ``DeadlineError``,
    ``UnreachableError``.
    """
    from godwit.runtime.clock import SystemClock
    from godwit.runtime.lane import Scope

    summary = await find_migration(log, migration)
    _check_not_over(summary)
    wanted = bev.BandwidthRequested(
        order=SystemClock().new_id(),
        bandwidth_bytes_per_second=bytes_per_second,
        requested_by=requested_by(),
    )
    sequence = await append_as_operator(log, Scope.of_migration(migration, summary.machine), wanted)
    await _answer(log, migration, wanted.order, sequence)
    told = await find_migration(log, migration)
    if told.limits.bandwidth_bytes_per_second != bytes_per_second:
        _check_not_over(told)
    return told


def _check_not_over(summary: MigrationSummary) -> None:
    if summary.outcome in {Outcome.COMPLETED, Outcome.ABORTED}:
        raise ConflictError(
            f"too late: migration {summary.id} was {summary.outcome}",
            hint=f"see 'godwit migration show {short_id(summary.id)}'",
        )


async def _answer(log: EventLog, migration: str, order: str, after: int) -> Recorded:
    """The first event after the request that says what came of it: the order to the source, its
    start, which has the bandwidth, or the migration's end.
    """
    filters = subjects.whole_migration(migration)
    source = reading.events(log, filters, after_sequence=after, follow=True)
    try:
        async with asyncio.timeout(SET_S_MAX), aclosing(source):
            async for recorded in source:
                event = recorded.event
                if isinstance(event, bev.BandwidthOrdered) and event.order == order:
                    return recorded
                if isinstance(event, ev.MigrationStarted | ev.MigrationEnded):
                    return recorded
    except TimeoutError:
        pass
    raise DeadlineError(
        f"migration {migration} was not given its bandwidth within {SET_S_MAX:g} s",
        hint="the request stands; it is obeyed when a coordinator is up",
    )
