"""Pages that were written again with what they held do not travel, and no other is left out."""

import asyncio
from functools import reduce

import numpy as np
import pytest
from direct_link import DEADLINE_S, Direct, Memory, direct, runs_of_pages, work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.transfer import compressing
from godwit.transfer.keyed_digest import KEY_BYTES
from godwit.transfer.partition import NO_RUNS
from godwit.transfer.rewritten import RewrittenPages, is_sampled
from godwit.transfer.sender import SentRound
from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.compression import METHODS, Compression
from godwit_protocol.rewriting import (
    SAMPLE_PAGES_MIN,
    SAMPLED_CHUNKS,
    Looked,
    Search,
    Searching,
    after,
)

PAGES = 2 * CHUNK_PAGES
EVERY_PAGE = range(PAGES)
FEW = 6
WRITES = st.lists(st.tuples(st.integers(0, FEW - 1), st.integers(0, 2)), max_size=6)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is looked at, from the first round on; and the smallest round compressed."""
    monkeypatch.setattr(compressing, "ROUND_PAGES_MIN", 1)
    monkeypatch.setattr(RewrittenPages, "is_sought", lambda *_, in_stun: True)
    monkeypatch.setattr(RewrittenPages, "parted", lambda _, pieces: (pieces, NO_RUNS))
    monkeypatch.setattr(RewrittenPages, "judge", lambda *_, **figures: None)


async def sent_in(link: Direct, number: int, pages: range | list[int]) -> SentRound:
    async with asyncio.timeout(DEADLINE_S):
        to_send = work(0, link.here[0], runs_of_pages(list(pages)))
        sent = await asyncio.to_thread(link.sender.send_round, number, [to_send])
        await link.session.round_applied(number)
    return sent


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("digested", [True, False])
async def test_a_page_that_holds_what_was_sent_is_left_out(digested: bool) -> None:
    async with direct(2, PAGES, digested=digested) as link:
        memory, there = link.here[0], link.there[0]
        memory.stamp(EVERY_PAGE, 1)
        first = await sent_in(link, 1, EVERY_PAGE)
        assert (first.rewritten_bytes, first.pages) == (0, PAGES)
        assert np.array_equal(memory.pages, there.pages), "copied in one round, long runs and all"
        changed = [0, 2, 4, *range(600, 700)]
        memory.stamp(changed, 2)
        second = await sent_in(link, 2, EVERY_PAGE)
        assert second.rewritten_bytes == (PAGES - len(changed)) * 4096
        assert (second.pages, second.sent_bytes) == (len(changed), len(changed) * 4096)
        assert second.wire_bytes < second.sent_bytes + 4096
        assert second.rewritten_ns > 0
        assert np.array_equal(memory.pages, there.pages)


@pytest.mark.usefixtures("always")
async def test_a_page_that_went_as_zeros_and_is_itself_again_goes_again() -> None:
    async with direct(1, PAGES) as link:
        memory = link.here[0]
        memory.stamp([7], 1)
        for number, content in enumerate([memory.pages[7].copy(), 0, memory.pages[7].copy()], 1):
            memory.pages[7] = content
            sent = await sent_in(link, number, [7])
            assert (sent.pages, sent.rewritten_bytes) == (1, 0)
        assert np.array_equal(memory.pages, link.there[0].pages)


class WritesWhileSending:
    """A guest that writes whenever a frame is about to go out: after it was looked at."""

    bytes_per_second = 1000
    """So slow that whatever becomes smaller is compressed."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest

    def take(self, _byte_count: int) -> None:
        self._guest.write_next()

    def lift(self) -> None:
        pass


class Guest:
    """Writes a few values over and over into a few pages, and is tracked to the page."""

    def __init__(self, bursts: list[list[tuple[int, int]]]) -> None:
        self.memory: Memory | None = None
        self.dirty = set(range(FEW))
        self._bursts = iter(bursts)

    def write_next(self) -> None:
        assert self.memory is not None
        for page, value in next(self._bursts, []):
            self.memory.pages[page] = value
            self.dirty.add(page)

    def scan(self) -> list[int]:
        dirty, self.dirty = self.dirty, set()
        return sorted(dirty)


@pytest.mark.usefixtures("always")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(WRITES, max_size=12),
    st.booleans(),
    st.sampled_from([(), *((each,) for each in METHODS)]),
)
def test_no_write_is_lost_whenever_it_comes(
    bursts: list[list[tuple[int, int]]], digested: bool, methods: tuple[Compression, ...]
) -> None:
    """Three values in six pages: what was sent, what came between, and what was sent again."""

    async def scenario() -> None:
        guest = Guest(bursts)
        pacer = WritesWhileSending(guest)
        async with direct(1, FEW, digested=digested, pacer=pacer, compressions=methods) as link:
            guest.memory = link.here[0]
            for number in range(1, len(bursts) + 2):
                guest.write_next()
                await sent_in(link, number, guest.scan())
            for _ in bursts:
                guest.write_next()
            await sent_in(link, len(bursts) + 2, guest.scan())
            assert np.array_equal(link.here[0].pages, link.there[0].pages)

    asyncio.run(scenario())


async def test_it_can_be_switched_off() -> None:
    async with direct(1, PAGES, omit_rewritten=False) as link:
        link.here[0].stamp(EVERY_PAGE, 1)
        for number in (1, 2, 3):
            sent = await sent_in(link, number, EVERY_PAGE)
            assert (sent.pages, sent.rewritten_bytes, sent.rewritten_ns) == (PAGES, 0, 0)


async def test_of_rounds_that_leave_nothing_out_a_sample_is_looked_at_and_soon_nothing() -> None:
    async with direct(1, PAGES) as link:
        looked = []
        for number in (1, 2, 3, 4):
            link.here[0].stamp(EVERY_PAGE, number)
            looked.append((await sent_in(link, number, EVERY_PAGE)).looked_bytes)
        assert looked == [0, CHUNK_PAGES * 4096, CHUNK_PAGES * 4096, 0]
        assert np.array_equal(link.here[0].pages, link.there[0].pages)


async def test_where_the_sample_was_rewritten_everything_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The times are made up: to send takes far longer than to look."""
    judge = RewrittenPages.judge

    def judged(pages: RewrittenPages, **figures: int) -> None:
        judge(pages, **figures | {"sending_ns": 10**12, "looking_ns": 1})

    monkeypatch.setattr(RewrittenPages, "judge", judged)
    async with direct(1, PAGES) as link:
        link.here[0].stamp(EVERY_PAGE, 1)
        omitted = [await sent_in(link, number, EVERY_PAGE) for number in (1, 2, 3, 4, 5)]
        sample = CHUNK_PAGES * 4096
        assert [sent.rewritten_bytes for sent in omitted] == [0, 0, sample, sample, PAGES * 4096]
        assert [sent.looked_bytes for sent in omitted[3:]] == [PAGES * 4096] * 2
        assert np.array_equal(link.here[0].pages, link.there[0].pages)


@given(st.integers(0, 2**40))
def test_the_sample_is_one_chunk_of_sixteen_wherever_one_begins(block: int) -> None:
    chunks = np.arange(block * SAMPLED_CHUNKS, (block + 1) * SAMPLED_CHUNKS)
    assert is_sampled(chunks).sum() == 1
    assert is_sampled(np.zeros(1, np.int64)).all(), "the smallest machine has a sample"


@pytest.mark.parametrize("stride", [2, 3, 4, 16, 64])
def test_no_stride_falls_in_with_the_sample(stride: int) -> None:
    chunks = np.arange(0, 1 << 16, stride)
    assert is_sampled(chunks).mean() == pytest.approx(1 / SAMPLED_CHUNKS, rel=0.2)


PAGE_NS = 2000.0
NOTED = Looked(100, 0, 30_000, PAGE_NS)
SAVED = Looked(100, 50, 30_000, PAGE_NS)
IN_VAIN = Looked(100, 10, 30_000, PAGE_NS)
TOO_FEW = Looked(SAMPLE_PAGES_MIN - 1, 0, 5_000, PAGE_NS)


@pytest.mark.parametrize(
    ("rounds", "search", "in_stun"),
    [
        ([], Search.SAMPLE, False),
        ([NOTED], Search.SAMPLE, False),
        ([NOTED, TOO_FEW], Search.SAMPLE, False),
        ([TOO_FEW, IN_VAIN], Search.SAMPLE, False),
        ([NOTED, IN_VAIN], Search.NOTHING, False),
        ([NOTED, SAVED], Search.EVERYTHING, False),
        ([NOTED, SAVED, IN_VAIN], Search.EVERYTHING, False),
        ([NOTED, SAVED, NOTED, SAVED], Search.EVERYTHING, True),
        ([NOTED, SAVED, NOTED, SAVED, IN_VAIN], Search.NOTHING, False),
        ([NOTED, IN_VAIN, SAVED], Search.NOTHING, False),
    ],
)
def test_it_is_sought_as_long_as_it_saves_more_than_it_costs(
    rounds: list[Looked], search: Search, in_stun: bool
) -> None:
    searching = reduce(after, rounds, Searching())
    assert (searching.search, searching.has_paid) == (search, in_stun)


def test_the_first_round_is_never_looked_at_and_the_stun_only_if_it_paid() -> None:
    pages = RewrittenPages((8,), bytes(KEY_BYTES))
    assert not pages.is_sought(1, in_stun=False)
    assert pages.is_sought(2, in_stun=False)
    assert not pages.is_sought(2, in_stun=True)
    for _ in range(4):
        pages.judge(sent=300, looked=100, omitted=50, sending_ns=600_000, looking_ns=30_000)
    assert pages.is_sought(9, in_stun=True)
