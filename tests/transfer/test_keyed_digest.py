"""The keyed digest is exact integer arithmetic, and sums over a block in any order."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.transfer.keyed_digest import KEY_BYTES, KeyedDigest

KEY = bytes(range(KEY_BYTES))
LEAF_PAGES = 16
PAGES = st.binary(min_size=1, max_size=64)


def page_of(content: bytes, at: int = 0) -> np.ndarray:
    page = np.zeros((1, 4096), np.uint8)
    page[0, at : at + len(content)] = np.frombuffer(content, np.uint8)
    return page


def by_the_book(key: bytes, block_pages: int, place: int, page: bytes) -> tuple[int, int]:
    """The formula in Python's own integers."""
    words = block_pages * 512
    stream = hashlib.shake_256(key).digest(16 * words)
    keys = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]
    first = second = 0
    for i in range(512):
        word = page[8 * i : 8 * i + 8]
        first += keys[place * 512 + i] * int.from_bytes(word, "little")
        second += keys[words + place * 512 + i] * int.from_bytes(word, "big")
    return first % 2**64, second % 2**64


@settings(max_examples=20, deadline=None)
@given(PAGES, st.integers(0, 4096 - 64), st.integers(0, 2**40), st.sampled_from([1, LEAF_PAGES]))
def test_it_is_the_formula_to_the_bit(content, at, number, block_pages):
    page = page_of(content, at)
    digest = KeyedDigest(KEY, block_pages).of_pages(np.array([number]), page)
    place = number % block_pages
    assert tuple(digest[0].tolist()) == by_the_book(KEY, block_pages, place, page.tobytes())


def test_a_block_is_the_sum_of_its_pages_in_any_order():
    pages = np.random.default_rng(1).integers(0, 256, (3 * LEAF_PAGES, 4096), np.uint8)
    digest = KeyedDigest(KEY, LEAF_PAGES)
    order = np.random.default_rng(2).permutation(len(pages))
    parts = digest.of_pages(order, pages[order])
    sums = np.zeros((3, 2), np.uint64)
    np.add.at(sums, order // LEAF_PAGES, parts)
    assert np.array_equal(sums, digest.of_blocks(pages))


@pytest.mark.parametrize("block_pages", [1, LEAF_PAGES])
def test_no_single_bit_is_lost_also_not_the_highest_of_every_word(block_pages):
    digest = KeyedDigest(KEY, block_pages)
    numbers = np.zeros(64, np.int64)
    pages = np.random.default_rng(3).integers(0, 256, (64, 4096), np.uint8)
    pages[:] = pages[0]
    pages.view(np.uint64)[np.arange(64), np.arange(64) * 7] ^= np.uint64(1) << np.arange(
        64, dtype=np.uint64
    )
    assert len(np.unique(digest.of_pages(numbers, pages), axis=0)) == 64
    signs = pages[:2].copy()
    signs[1].view(np.uint32)[:] ^= np.uint32(1 << 31)  # all floats of a page change their sign
    assert len(np.unique(digest.of_pages(numbers[:2], signs), axis=0)) == 2


def test_another_key_or_place_gives_another_digest():
    page = page_of(b"page")
    here = KeyedDigest(KEY, LEAF_PAGES).of_pages(np.array([3]), page).tolist()
    assert KeyedDigest(KEY, LEAF_PAGES).of_pages(np.array([4]), page).tolist() != here
    assert KeyedDigest(KEY[::-1], LEAF_PAGES).of_pages(np.array([3]), page).tolist() != here
    assert KeyedDigest(KEY, LEAF_PAGES).of_pages(np.array([3 + 16]), page).tolist() == here


def test_zeros_have_the_digest_of_nothing():
    digest = KeyedDigest(KEY, LEAF_PAGES)
    assert not digest.of_blocks(np.zeros((LEAF_PAGES, 4096), np.uint8)).any()
