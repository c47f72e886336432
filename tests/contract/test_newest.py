"""A log is read from its newest migrations on, and nobody is forgotten who is not over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from godwit.pictures.board import Board, Phase
from godwit.pictures.newest import tell_newest
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.watching_log import INBOX_PREFIX, WatchingLog
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from guarded_server import Guarded, tell

REQUESTED = ev.MigrationRequested(machine="m", destination="host-2", limits=ev.Limits())
ENDED = ev.MigrationEnded(outcome=ev.Outcome.COMPLETED)
DOUBT = ev.DoubtRaised(message="nobody answers")
ROUNDS = ev.PrecopyStarted(connections=1, resident_bytes=1, populate_ns=1)
COUNT = 40


@pytest_asyncio.fixture
async def watching(guarded: Guarded, owner: NatsLog) -> AsyncIterator[WatchingLog]:
    """Of a log of forty migrations: the 3rd is in doubt, and the 5th goes on until the last."""
    for number in range(COUNT):
        await tell(owner, number, REQUESTED)
        if number == 3:
            await say(owner, number, DOUBT, Lane.SOURCE)
        elif number != 5:
            await say(owner, number, ENDED, Lane.COORDINATOR)
    await say(owner, 4, ROUNDS, Lane.SOURCE)  # a straggler of one that is over
    await say(owner, 5, ROUNDS, Lane.SOURCE)
    log = await NatsLog.connect(guarded.watch_url, name="watcher", inbox_prefix=INBOX_PREFIX)
    yield WatchingLog(log)
    await log.close()


async def say(owner: NatsLog, number: int, event: Event, lane: Lane) -> None:
    await tell(owner, number, event, lane)


async def told(watching: WatchingLog, count: int) -> tuple[Board, list[Recorded], int, int]:
    board, events = Board(), list[Recorded]()

    def learn(recorded: Recorded) -> None:
        events.append(recorded)
        board.learn(recorded)

    last, left_out = await tell_newest(watching, learn, count)
    return board, events, last, left_out


async def test_the_newest_are_read_and_the_older_ones_that_are_not_over(
    watching: WatchingLog,
) -> None:
    board, events, last, left_out = await told(watching, 10)
    ids = {row.summary.id: row.phase for row in board.rows()}
    newest = {f"x{number}": Phase.COMPLETED for number in range(30, 40)}
    assert ids == newest | {"x3": Phase.IN_DOUBT, "x5": Phase.COPYING}
    assert (last, left_out) == (2 * COUNT + 1, 28)
    assert len(events) == 10 * 2 + 2 + 2, "and nothing of any other"


@pytest.mark.parametrize("count", [COUNT, COUNT + 1, 1000])
async def test_a_log_that_is_not_longer_is_read_whole(watching: WatchingLog, count: int) -> None:
    board, events, last, left_out = await told(watching, count)
    assert (len(board.rows()), left_out) == (COUNT, 0)
    assert (len(events), last) == (2 * COUNT + 1, 2 * COUNT + 1)


async def test_an_empty_log_has_nothing_to_tell(guarded: Guarded, owner: NatsLog) -> None:
    log = await NatsLog.connect(guarded.watch_url, name="watcher", inbox_prefix=INBOX_PREFIX)
    assert (await told(WatchingLog(log), 10))[2:] == (0, 0)
    await log.close()
