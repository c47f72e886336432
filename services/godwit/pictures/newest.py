"""The newest migrations of a log, read in a time that does not grow with the years.

What stood in the log before the Nth last request is left out, and counted, but for migrations that
are not over: those that still tell something, and those in doubt, which may be silent for weeks.
Asks the log only what a watcher may ask, and knows nothing of how anything is shown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

from godwit_protocol import subjects
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev

from . import reading

if TYPE_CHECKING:
    from godwit.runtime.watching_log import WatchingLog

OPEN_MAX: Final = 100
"""Of the older migrations that are not over, so many are read, the newest."""
_REQUESTS: Final = subjects.migration("*", "operator", ev.MigrationRequested.TYPE)
_DOUBTS: Final = subjects.migration("*", "*", ev.DoubtRaised.TYPE)

Learn = Callable[[Recorded], object]


class Told(NamedTuple):
    """Up to which place the log was read, and how many migrations were left out."""

    last: int
    left_out: int


async def tell_newest(log: WatchingLog, learn: Learn, count: int) -> Told:
    """Give ``learn`` the events of the newest ``count`` migrations, as the log has them, and then
    of each older one that is not over. Raises ``UnreachableError``.
    """
    after, older_requests = await _begin_after(log, count)
    older = set(await _in_doubt(log, after)) if after else set[str]()
    begun, last = set[str](), after
    filters = subjects.whole_migration("*")
    async with aclosing(reading.events(log, filters, after_sequence=after)) as events:
        async for recorded in events:
            migration, last = recorded.envelope.migration, recorded.sequence
            if isinstance(recorded.event, ev.MigrationRequested):
                begun.add(migration)
            if migration in begun:
                learn(recorded)
            else:
                older.add(migration)
    left_out = older_requests
    async for migration in _open_ones(log, older):
        await _tell(log, learn, migration, last)
        left_out -= 1
    return Told(last, max(left_out, 0))


async def _begin_after(log: WatchingLog, count: int) -> tuple[int, int]:
    """The place after which ``count`` requests stand, and how many stand up to it.

    Found by bisection: the server counts what follows a place without sending it.
    """
    first, end = await log.first_after(_REQUESTS, 0), await log.last(_REQUESTS)
    if first is None or end is None or first.more < count:
        return 0, 0
    low, high = first.stored.sequence, end.sequence
    while low < high:  # from ``low`` on stand more than ``count``, after ``high`` fewer
        found = await log.first_after(_REQUESTS, middle := (low + high) // 2)
        if found is None or found.more + 1 < count:
            high = middle
        else:
            low = found.stored.sequence
            if found.more + 1 == count:
                break
    return low - 1, first.more + 1 - count


async def _in_doubt(log: WatchingLog, up_to: int) -> list[str]:
    """Migrations of which somebody doubted, up to a place."""
    async with aclosing(reading.events(log, (_DOUBTS,))) as doubts:
        return [each.envelope.migration async for each in doubts if each.sequence <= up_to]


async def _open_ones(log: WatchingLog, migrations: Iterable[str]) -> AsyncIterator[str]:
    """Those of them that are not over."""
    left = OPEN_MAX
    for migration in sorted(migrations, reverse=True):  # the ids begin with the time
        ended = subjects.migration(migration, "*", ev.MigrationEnded.TYPE)
        if left and await log.last(ended) is None:
            left -= 1
            yield migration


async def _tell(log: WatchingLog, learn: Learn, migration: str, up_to: int) -> None:
    filters = subjects.whole_migration(migration)
    async with aclosing(reading.events(log, filters)) as events:
        async for recorded in events:
            if recorded.sequence <= up_to:
                learn(recorded)
