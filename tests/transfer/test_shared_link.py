"""Real senders over real sockets are held to a pace, by a clock that goes on while they wait."""

from __future__ import annotations

import asyncio
import threading
from itertools import accumulate

from direct_link import DEADLINE_S, Direct, direct, runs, work

from godwit.transfer.pacing import MonotonicClock, Pace, SharedLink
from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.pacing import BURST_BYTES

SECOND_NS = 1_000_000_000
MBIT = 125_000
ROUND_BYTES = 8 * CHUNK_PAGES * 4096


class WaitedClock:
    """Time passes only while somebody waits for it."""

    def __init__(self) -> None:
        self._now_ns = 0
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        return self._now_ns

    def wait(self, changed: threading.Condition, seconds: float) -> None:
        changed.wait(0)  # lets go of it, as waiting does
        with self._lock:
            self._now_ns += int(seconds * SECOND_NS) + 1


class HeardClock(MonotonicClock):
    """The machine's own, which says when somebody waits by it."""

    def __init__(self) -> None:
        self.waited = threading.Event()

    def wait(self, changed: threading.Condition, seconds: float) -> None:
        self.waited.set()
        super().wait(changed, seconds)


class Noted:
    """A pace that remembers what it let through, and when."""

    def __init__(self, pace: Pace, clock: WaitedClock) -> None:
        self.pace = pace
        self.passed: list[tuple[int, int]] = []
        self._clock = clock
        self._lock = threading.Lock()
        pace.join()

    @property
    def bytes_per_second(self) -> int:
        return self.pace.bytes_per_second

    def take(self, byte_count: int) -> None:
        with self._lock:
            self.pace.take(byte_count)
            self.passed.append((self._clock.now_ns(), byte_count))

    def lift(self) -> None:
        self.pace.lift()


def check(rate: int, *pacers: Noted, since_ns: int = -1) -> None:
    """In any time no more than the rate, and one burst each, of all of them together."""
    passed = sorted(each for pacer in pacers for each in pacer.passed if each[0] > since_ns)
    for first, (begin_ns, _) in enumerate(passed):
        sums = accumulate(size for _, size in passed[first:])
        for (at_ns, _), sent in zip(passed[first:], sums, strict=True):
            allowed = rate * (at_ns - begin_ns) + len(pacers) * BURST_BYTES * SECOND_NS
            assert sent * SECOND_NS <= allowed


async def send(link: Direct, number: int = 1) -> None:
    link.here[0].stamp(range(8 * CHUNK_PAGES), number)
    await link.move(number, work(0, link.here[0], runs((0, 8 * CHUNK_PAGES))))
    assert (link.here[0].pages == link.there[0].pages).all()


async def test_all_connections_together_are_held_to_the_cap() -> None:
    clock = WaitedClock()
    pacer = Noted(SharedLink(clock=clock).pace(80 * MBIT), clock)
    async with direct(2, 8 * CHUNK_PAGES, pacer=pacer) as link:
        await send(link)
        check(80 * MBIT, pacer)
        assert sum(size for _, size in pacer.passed) >= ROUND_BYTES
        held = pacer.pace.held()
        assert held.cap_bytes_per_second == 80 * MBIT
        # Nobody waits for longer than the bytes take.
        assert 80 * MBIT * clock.now_ns() / SECOND_NS >= ROUND_BYTES - BURST_BYTES
        assert held.paced_ns > 0


async def test_another_cap_goes_at_once_also_for_what_waits() -> None:
    """By the machine's own clock: at the first cap the round would take two minutes."""
    clock = HeardClock()
    pace = SharedLink(clock=clock).pace(MBIT)
    pace.join()
    async with direct(2, 8 * CHUNK_PAGES, pacer=pace, digested=False) as link:
        sending = asyncio.create_task(send(link))
        assert await asyncio.to_thread(clock.waited.wait, DEADLINE_S)
        pace.set_cap(0)
        async with asyncio.timeout(DEADLINE_S):
            await sending
    held = pace.held()
    assert (held.cap_bytes_per_second, pace.bytes_per_second) == (MBIT, 0)


async def test_a_pace_that_is_lifted_holds_nothing_back() -> None:
    """So the stun goes as fast as the link, and an abort is heard in the middle of a wait."""
    clock = HeardClock()
    pace = SharedLink(MBIT, clock).pace(MBIT)
    pace.join()
    async with direct(1, 8 * CHUNK_PAGES, pacer=pace) as link:
        sending = asyncio.create_task(send(link))
        assert await asyncio.to_thread(clock.waited.wait, DEADLINE_S)
        pace.lift()
        async with asyncio.timeout(DEADLINE_S):
            await sending
    assert pace.bytes_per_second == 0


async def test_two_migrations_share_a_link_and_the_last_has_all_of_it() -> None:
    clock = WaitedClock()
    shared = SharedLink(160 * MBIT, clock)
    one, other = [Noted(shared.pace(0), clock) for _ in range(2)]
    assert (one.pace.bytes_per_second, other.pace.bytes_per_second) == (80 * MBIT, 80 * MBIT)
    async with (
        direct(1, 8 * CHUNK_PAGES, pacer=one) as first,
        direct(2, 8 * CHUNK_PAGES, pacer=other) as second,
    ):
        await asyncio.gather(send(first), send(second))
        check(160 * MBIT, one, other)
        changed_ns = clock.now_ns()
        other.pace.set_cap(40 * MBIT)
        await asyncio.gather(send(first, 2), send(second, 2))
        check(160 * MBIT, one, other, since_ns=changed_ns)
        check(40 * MBIT, other, since_ns=changed_ns)
        other.lift()
        assert one.pace.bytes_per_second == 160 * MBIT
        assert one.pace.held().cap_bytes_per_second == 80 * MBIT


async def test_a_share_that_is_not_used_is_lent() -> None:
    """The one waits between two rounds; the other has all of the link, and says so."""
    clock = WaitedClock()
    shared = SharedLink(160 * MBIT, clock)
    one, other = [Noted(shared.pace(0), clock) for _ in range(2)]
    assert not other.passed
    async with direct(1, 8 * CHUNK_PAGES, pacer=one) as link:
        for number in range(1, 4):
            await send(link, number)
        assert one.pace.bytes_per_second == 160 * MBIT
    sent = sum(size for _, size in one.passed)
    assert 160 * MBIT * clock.now_ns() / SECOND_NS <= sent - BURST_BYTES + 1_000_000


def test_a_pace_that_has_not_joined_takes_no_share() -> None:
    shared = SharedLink(100)
    waiting, sending = shared.pace(0), shared.pace(0)
    waiting.set_cap(30)
    sending.join()
    assert sending.bytes_per_second == 100
    waiting.join()
    assert (waiting.bytes_per_second, sending.bytes_per_second) == (30, 70)
    late = shared.pace(0)
    late.lift()
    late.join()
    assert (waiting.bytes_per_second, sending.bytes_per_second) == (30, 70)
