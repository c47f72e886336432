"""Which chunks are offered to a destination that may hold them already, and which are left to send.

A sample first, then only what lies beside a chunk of it that was held: content lies in stretches,
and a machine of which nothing is held pays for the sample alone. Works on the chunk numbers of one
region and one connection; knows nothing of sockets or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import CHUNK_PAGES, OFFERED_CHUNKS_MAX

from .digest import chunk_digest
from .partition import PageView, Runs, blocks, pieces_on

Chunks: TypeAlias = NDArray[np.int64]
"""Numbers of chunks of one region: ascending int64, shape (n,)."""
Answer: TypeAlias = NDArray[np.bool_]
"""For each of some chunks whether the destination has filled it."""
Ask: TypeAlias = Callable[[Chunks, bytes], Answer]
"""Offers 1 to ``OFFERED_CHUNKS_MAX`` chunks with their digests, one after the other."""

NO_CHUNKS: Final[Chunks] = np.empty(0, dtype=np.int64)

SAMPLED_ONE_IN: Final = 16
SAMPLED_CHUNKS_MIN: Final = 4
SAMPLED_CHUNKS_MAX: Final = 16
"""Of one region on one connection: digesting them takes less than sending 32 MiB."""


def whole_chunks(runs: Runs, connection: int, connections: int) -> Chunks:
    """The chunks that travel on ``connection`` of which ``runs`` has every page, in one run."""
    found = [NO_CHUNKS]
    for block in blocks(runs):
        pieces = pieces_on(block, connection, connections)
        found.append(pieces[pieces[:, 1] == CHUNK_PAGES, 0] // CHUNK_PAGES)
    return np.concatenate(found)


def filled(pages: PageView, chunks: Chunks, ask: Ask) -> Chunks:
    """Offer a sample of ``chunks``, then the neighbours of what was held; return what was held."""
    if not len(chunks):
        return NO_CHUNKS
    places = _sampled_places(len(chunks))
    sample = chunks[places]
    had = _offered(pages, sample, ask)
    beside = chunks[_places_beside(places, had, len(chunks))]
    return np.sort(np.concatenate((sample[had], beside[_offered(pages, beside, ask)])))


def without(pieces: Runs, chunks: Chunks) -> Runs:
    """``pieces``, which cross no chunk's border, less those of ``chunks``."""
    return pieces[~np.isin(pieces[:, 0] // CHUNK_PAGES, chunks)] if len(chunks) else pieces


def _sampled_places(count: int) -> NDArray[np.int64]:
    """Evenly spaced, each in the middle of its stretch."""
    stride = max(SAMPLED_ONE_IN, -(-count // SAMPLED_CHUNKS_MAX))
    stride = max(min(stride, count // SAMPLED_CHUNKS_MIN), 1)
    return np.arange(stride // 2, count, stride, dtype=np.int64)


def _places_beside(places: NDArray[np.int64], had: Answer, count: int) -> NDArray[np.int64]:
    """What was not sampled and has a sample that was held before or after it."""
    following = np.searchsorted(places, np.arange(count))
    padded = np.concatenate(([False], had, [False]))
    beside = padded[following] | padded[following + 1]
    beside[places] = False
    return np.flatnonzero(beside)


def _offered(pages: PageView, chunks: Chunks, ask: Ask) -> Answer:
    answers = [np.empty(0, np.bool_)]
    answers.extend(_answered(pages, some, ask) for some in _batches(chunks))
    return np.concatenate(answers)


def _answered(pages: PageView, chunks: Chunks, ask: Ask) -> Answer:
    """Chunks that look like zeros are not offered: they are named as cheaply."""
    contents = [pages[chunk * CHUNK_PAGES : (chunk + 1) * CHUNK_PAGES] for chunk in chunks]
    is_offered = np.array([content[:, 0].any() for content in contents], np.bool_)
    answer = np.zeros(len(chunks), np.bool_)
    if is_offered.any():
        digests = [chunk_digest(contents[index].data) for index in np.flatnonzero(is_offered)]
        answer[is_offered] = ask(chunks[is_offered], b"".join(digests))
    return answer


def _batches(chunks: Chunks) -> Iterator[Chunks]:
    for start in range(0, len(chunks), OFFERED_CHUNKS_MAX):
        yield chunks[start : start + OFFERED_CHUNKS_MAX]
