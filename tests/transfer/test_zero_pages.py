"""Pages that are zero do not travel, and arrive as zeros all the same."""

import asyncio

import numpy as np
import pytest
from direct_link import DEADLINE_S, Direct, direct, runs, runs_of_pages, work
from hypothesis import given
from hypothesis import strategies as st

from godwit.transfer.partition import PageView, Runs, batches, pieces_on, split_zeros
from godwit.transfer.sender import SentRound
from godwit_protocol.bulk import CHUNK_PAGES

PAGES = 4 * CHUNK_PAGES
MEMORY: PageView = np.zeros((PAGES, 4096), np.uint8)


def numbers_of(pieces: np.ndarray) -> list[int]:
    return [page for first, count in pieces.tolist() for page in range(first, first + count)]


@given(
    st.sets(st.integers(0, PAGES - 1), max_size=60),
    st.sets(st.integers(0, PAGES - 1), min_size=1, max_size=80),
    st.booleans(),
)
def test_every_page_is_in_one_part(filled: set[int], asked: set[int], whole: bool) -> None:
    MEMORY[:] = 0
    MEMORY[sorted(filled), 4095] = 1  # not in the first word, which is looked at first
    to_send = runs((0, PAGES)) if whole else runs_of_pages(sorted(asked))
    pieces = pieces_on(to_send, 0, 1)
    assert numbers_of(pieces) == numbers_of(np.concatenate(list(batches(pieces))))
    some, zeros = split_zeros(MEMORY, pieces)
    assert sorted(numbers_of(some) + numbers_of(zeros)) == numbers_of(pieces)
    assert set(numbers_of(zeros)) == set(numbers_of(pieces)) - filled
    for part in (some, zeros):
        assert np.array_equal(pieces_on(part, 0, 1), part), "no piece crosses a chunk's border"


@pytest.mark.parametrize("digested", [True, False])
async def test_zero_pages_are_named_only(digested: bool) -> None:
    filled = [0, 7, 8, 9, *range(CHUNK_PAGES, CHUNK_PAGES + 100), PAGES - 1]
    async with direct(2, PAGES, digested=digested) as link:
        link.here[0].stamp(filled, 1)
        link.there[0].stamp(range(PAGES), 2)
        sent = await round_of(link, runs((0, PAGES)))
        assert np.array_equal(link.here[0].pages, link.there[0].pages)
        assert sent.pages == PAGES
        assert sent.zero_bytes == (PAGES - len(filled)) * 4096
        assert sent.sent_bytes == len(filled) * 4096
        assert sent.wire_bytes < sent.sent_bytes + 4096
        assert sent.zero_ns > 0


async def test_every_other_page_is_zero() -> None:
    async with direct(2, PAGES) as link:
        link.here[0].stamp(range(0, PAGES, 2), 1)
        link.there[0].stamp(range(PAGES), 2)
        sent = await round_of(link, runs((0, PAGES)))
        assert np.array_equal(link.here[0].pages, link.there[0].pages)
        assert sent.zero_bytes == sent.sent_bytes == PAGES // 2 * 4096
        assert sent.frames < PAGES / 64


async def test_it_can_be_switched_off() -> None:
    async with direct(1, PAGES, omit_zeros=False) as link:
        link.there[0].stamp(range(PAGES), 2)
        link.here[0].pages[:] = 0
        sent = await round_of(link, runs((0, PAGES)))
        assert not link.there[0].pages.any()
        assert (sent.zero_bytes, sent.zero_ns, sent.sent_bytes) == (0, 0, PAGES * 4096)


async def round_of(link: Direct, to_send: Runs) -> SentRound:
    async with asyncio.timeout(DEADLINE_S):
        sent = await asyncio.to_thread(link.sender.send_round, 1, [work(0, link.here[0], to_send)])
        await link.session.round_applied(1)
    return sent
