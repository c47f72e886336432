"""Watching with nothing but a watcher's rights: all of the history, then live, without a gap."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from godwit.runtime import watching_log
from godwit.runtime.nats_log import NatsLog
from godwit.runtime.watching_log import INBOX_PREFIX, Turn, WatchingLog, turn_of
from godwit_protocol import subjects
from godwit_protocol.errors import UnreachableError
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import CancelRequested
from godwit_protocol.stored import Stored
from guarded_server import Guarded, tell

HEARD_S_MAX = 20
ALL_MIGRATIONS = (f"{subjects.ROOT}.migration.>",)


@pytest_asyncio.fixture
async def watching(guarded: Guarded, owner: NatsLog) -> AsyncIterator[WatchingLog]:
    log = await NatsLog.connect(guarded.watch_url, name="watcher", inbox_prefix=INBOX_PREFIX)
    yield WatchingLog(log)
    await log.close()


async def taken(source: AsyncIterator[Stored], count: int) -> list[Stored]:
    async with asyncio.timeout(HEARD_S_MAX):
        return [await anext(source) for _ in range(count)]


def about(number: int) -> tuple[str, ...]:
    return subjects.whole_migration(f"x{number}")


async def test_the_history_is_read_as_an_owner_reads_it(
    watching: WatchingLog, owner: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_log, "BATCH_MESSAGES", 3)
    for number in range(8):
        await tell(owner, number)
    for wanted in (ALL_MIGRATIONS, about(5), (*about(2), *about(6)), about(99)):
        read = [stored async for stored in watching.read(wanted)]
        assert_same(read, [stored async for stored in owner.read(wanted)])
    assert len([stored async for stored in watching.read(ALL_MIGRATIONS, after_sequence=5)]) == 3


def assert_same(read: list[Stored], owned: list[Stored]) -> None:
    told = [(each.subject, each.sequence, each.data, each.time_ns) for each in read]
    assert told == [(each.subject, each.sequence, each.data, each.time_ns) for each in owned]


async def test_the_last_message_of_a_subject_or_none(watching: WatchingLog, owner: NatsLog) -> None:
    await tell(owner, 1)
    subject = subjects.migration("x1", Lane.OPERATOR, CancelRequested.TYPE)
    last = await watching.last(subject)
    assert last is not None
    assert (last.subject, last.sequence) == (subject, 1)
    assert await watching.last(subjects.inventory("nobody")) is None


async def test_a_tail_goes_on_with_what_is_said_live(watching: WatchingLog, owner: NatsLog) -> None:
    for number in (1, 2):
        await tell(owner, number)
    tail = watching.tail(ALL_MIGRATIONS)
    early = await taken(tail, 2)
    for number in (3, 4, 5):
        await tell(owner, number)
    assert [each.sequence for each in early + await taken(tail, 3)] == [1, 2, 3, 4, 5]
    await tail.aclose()


async def test_what_was_dropped_live_is_read_from_the_history(
    watching: WatchingLog, owner: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_log, "LIVE_MESSAGES_MAX", 2)
    await tell(owner, 0)
    tail = watching.tail(ALL_MIGRATIONS)
    first = await taken(tail, 1)
    for number in range(1, 30):
        await tell(owner, number)
    kept = await taken(tail, 2)
    await tell(owner, 30)  # it is heard, after a gap
    rest = await taken(tail, 28)
    assert [each.sequence for each in first + kept + rest] == list(range(1, 32))
    await tail.aclose()


async def test_a_watcher_cannot_have_another_take_a_line_of_a_ledger_for_an_event(
    watching: WatchingLog, guarded: Guarded, owner: NatsLog
) -> None:
    """They share an account, and so an answer to one can be sent to where another listens."""
    for number in (1, 2):
        await owner.append(subjects.ledger("host-1"), b"a line", message_id=f"line-{number}")
    await tell(owner, 1)
    tail = watching.tail(ALL_MIGRATIONS)
    early = await taken(tail, 1)
    other = await NatsLog.connect(guarded.watch_url, name="other", inbox_prefix=INBOX_PREFIX)
    live = f"{subjects.LIVE_ROOT}.migration.x2.operator.cancel_requested"
    for question in ({"seq": 2}, {"seq": 99}):
        await other.post_api("DIRECT.GET.GODWIT_LEDGER", question, live)
    assert await WatchingLog(other).last(subjects.ledger("host-1")) is not None
    await tell(owner, 2)
    told = early + await taken(tail, 1)
    assert [each.subject.split(".")[3] for each in told] == ["x1", "x2"]
    await tail.aclose()
    await other.close()


async def test_a_stream_that_is_not_said_live_is_looked_at(
    watching: WatchingLog, owner: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_log, "LOOK_S", 0.05)
    tail = watching.tail([subjects.ledger("*")])
    waiting = asyncio.ensure_future(taken(tail, 1))
    await owner.append(subjects.ledger("host-1"), b"a line", message_id="line-1")
    assert [each.data for each in await waiting] == [b"a line"]
    await tail.aclose()


async def test_it_says_whether_what_a_tail_gives_is_all_there_is(
    watching: WatchingLog, guarded: Guarded, owner: NatsLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_log, "LOOK_S", 0.05)
    monkeypatch.setattr(watching_log, "ANSWER_S_MAX", 0.3)
    await tell(owner, 1)
    tail = watching.tail(ALL_MIGRATIONS)
    await taken(tail, 1)
    waiting = asyncio.ensure_future(taken(tail, 1))
    await asyncio.sleep(0.5)
    assert watching.is_connected
    os.kill(guarded.pid, signal.SIGSTOP)  # the connection stands, and nobody answers
    try:
        await until(lambda: not watching.is_connected)
    finally:
        os.kill(guarded.pid, signal.SIGCONT)
    await until(lambda: watching.is_connected)
    await tell(owner, 2)
    assert [each.sequence for each in await waiting] == [2]
    await tail.aclose()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HEARD_S_MAX):
        while not is_so():  # noqa: ASYNC110  # a connection's state
            await asyncio.sleep(0.02)


async def test_what_may_not_be_watched_is_an_error_within_its_time(watching: WatchingLog) -> None:
    with pytest.raises(UnreachableError, match="GODWIT_REGISTER"):
        await watching.last(subjects.register("m"), timeout_s=0.2)


@given(
    length=st.integers(0, 12),
    heard=st.lists(st.integers(1, 12), max_size=40),
    looks=st.sets(st.integers(0, 40)),
)
def test_in_whatever_order_it_is_heard_all_is_given_once_and_in_order(
    length: int, heard: list[int], looks: set[int]
) -> None:
    """Lost, doubled, swapped: what is not the next is read from the history, as after a silence."""
    given: list[int] = []

    def look() -> None:
        given.extend(range(len(given) + 1, length + 1))

    for moment, sequence in enumerate(each for each in heard if each <= length):
        turn = turn_of(sequence, len(given))
        if turn is Turn.NEXT:
            given.append(sequence)
        if turn is Turn.AFTER_A_GAP or moment in looks:
            look()
    look()
    assert given == list(range(1, length + 1))
