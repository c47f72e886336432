"""Chunks that the destination holds already are named by digest, and do not travel."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from direct_link import DEADLINE_S, Direct, Memory, direct, runs, runs_of_pages, work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.transfer.digest import chunk_digest
from godwit.transfer.offers import (
    SAMPLED_CHUNKS_MAX,
    SAMPLED_CHUNKS_MIN,
    SAMPLED_ONE_IN,
    filled,
    whole_chunks,
)
from godwit.transfer.sender import SentRound
from godwit_protocol.bulk import CHUNK_PAGES, OFFERED_CHUNKS_MAX
from godwit_protocol.errors import CorruptError, RemoteProtocolError, UnreachableError
from godwit_protocol.framing import Frame, FrameKind
from tampering import Tamper, TamperAnswer, Tampered

CHUNK_BYTES = CHUNK_PAGES * 4096
CHUNKS = 12
PAGES = CHUNKS * CHUNK_PAGES
WHOLE = runs((0, PAGES))


@dataclass
class Held:
    """What a destination holds: by digest, what it would write. A liar writes something else."""

    chunks: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    on_fill: Callable[[], None] = lambda: None

    def fill(self, digest: bytes, place: memoryview) -> bool:
        self.asked.append(digest)
        self.on_fill()
        if digest not in self.chunks:
            return False
        place[:] = self.chunks[digest]
        return chunk_digest(place) == digest

    def hold(self, memory: Memory, chunks: object) -> None:
        for chunk in np.asarray(chunks, np.int64).tolist():
            content = chunk_of(memory, chunk)
            self.chunks[chunk_digest(content)] = content


def chunk_of(memory: Memory, chunk: int) -> bytes:
    return memory.pages[chunk * CHUNK_PAGES : (chunk + 1) * CHUNK_PAGES].tobytes()


async def first_round(link: Direct, to_send: np.ndarray = WHOLE) -> SentRound:
    async with asyncio.timeout(DEADLINE_S):
        sent = await asyncio.to_thread(link.sender.send_round, 1, [work(0, link.here[0], to_send)])
        await link.session.round_applied(1)
    return sent


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
        (2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"),
    ],
)
def test_a_chunks_digest_is_blake3_which_nobody_can_forge(size: int, digest: str) -> None:
    """Vectors that its authors published: of bytes that count up to 250, again and again."""
    assert chunk_digest(bytes(index % 251 for index in range(size))).hex() == digest


@pytest.mark.parametrize("digested", [True, False])
async def test_what_is_held_does_not_travel(digested: bool) -> None:
    held = Held()
    async with direct(2, PAGES, digested=digested, content=held) as link:
        link.here[0].stamp(range(PAGES), 1)
        link.there[0].stamp(range(PAGES), 2)
        held.hold(link.here[0], range(CHUNKS - 1))
        sent = await first_round(link)
        assert np.array_equal(link.here[0].pages, link.there[0].pages)
        assert sent.pages == PAGES
        assert sent.content_bytes == (CHUNKS - 1) * CHUNK_BYTES
        assert sent.sent_bytes == CHUNK_BYTES
        assert sent.wire_bytes < 1.01 * CHUNK_BYTES
        assert 0 < sent.content_ns < sent.duration_ns
        assert link.sender.sent_digest() == link.session.applied_digest()


async def test_only_the_first_round_offers_and_only_if_it_is_asked_to() -> None:
    held = Held()
    async with direct(2, PAGES, content=held) as link:
        link.here[0].stamp(range(PAGES), 1)
        held.hold(link.here[0], range(CHUNKS))
        assert (await first_round(link)).sent_bytes == 0
        asked = len(held.asked)
        async with asyncio.timeout(DEADLINE_S):
            again = [work(0, link.here[0], WHOLE)]
            sent = await asyncio.to_thread(link.sender.send_round, 2, again)
            await link.session.round_applied(2)
        assert (sent.content_bytes, sent.content_ns, len(held.asked)) == (0, 0, asked)
    async with direct(2, PAGES, content=held, offer_content=False) as link:
        link.here[0].stamp(range(PAGES), 1)
        sent = await first_round(link)
        assert (sent.content_bytes, sent.content_ns, len(held.asked)) == (0, 0, asked)


async def test_nothing_is_offered_in_the_stun() -> None:
    """Of a machine that is moved without pre-copy the first round is all there is."""
    held = Held()
    async with direct(1, PAGES, content=held) as link:
        link.here[0].stamp(range(PAGES), 1)
        held.hold(link.here[0], range(CHUNKS))
        sending = [work(0, link.here[0], WHOLE)]
        sent = await asyncio.to_thread(link.sender.send_round, 1, sending, in_stun=True)
        assert (sent.sent_bytes, held.asked) == (PAGES * 4096, [])


async def test_where_nothing_is_held_only_a_sample_is_offered() -> None:
    held = Held()
    async with direct(1, PAGES, content=held) as link:
        link.here[0].stamp(range(PAGES), 1)
        sent = await first_round(link)
        assert len(held.asked) == SAMPLED_CHUNKS_MIN
        assert np.array_equal(link.here[0].pages, link.there[0].pages)
        assert (sent.content_bytes, sent.sent_bytes) == (0, PAGES * 4096)


async def test_a_candidate_that_was_changed_or_forged_is_not_used() -> None:
    """What stands under a digest and has another leaves no trace in the machine."""
    held = Held()
    async with direct(1, PAGES, content=held) as link:
        link.here[0].stamp(range(PAGES), 1)
        held.hold(link.here[0], range(CHUNKS))
        forged = chunk_digest(chunk_of(link.here[0], 5))
        held.chunks[forged] = bytes([held.chunks[forged][0] ^ 1]) + held.chunks[forged][1:]
        sent = await first_round(link)
        assert forged in held.asked
        assert np.array_equal(link.here[0].pages, link.there[0].pages)
        assert sent.content_bytes == (CHUNKS - 1) * CHUNK_BYTES


def flipped_offer(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    """The last bit of the last digest."""
    if frame.kind is FrameKind.OFFER:
        payload = payload[:-1] + bytes([payload[-1] ^ 1])
    return [(frame, payload)]


def untouched(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    return [(frame, payload)]


@pytest.mark.parametrize(
    ("tamper", "answer", "error"),
    [
        (flipped_offer, lambda data: data, CorruptError),
        (untouched, lambda data: data[::-1], CorruptError),
        (untouched, lambda data: bytes(len(data)), RemoteProtocolError),
    ],
    ids=["a digest", "other chunks", "fewer chunks"],
)
async def test_what_is_altered_on_the_way_is_found(
    tamper: Tamper, answer: TamperAnswer, error: type[Exception]
) -> None:
    """Both sides digest offers and answers, and count what they come to."""
    held, through = Held(), Tampered(tamper, answer)
    try:
        async with direct(1, PAGES, content=held, via=through.in_front_of) as link:
            link.here[0].stamp(range(PAGES), 1)
            held.hold(link.here[0], range(2))
            with contextlib.suppress(UnreachableError):
                await asyncio.to_thread(link.sender.send_round, 1, [work(0, link.here[0], WHOLE)])
            with pytest.raises(error):
                async with asyncio.timeout(DEADLINE_S):
                    await link.session.round_applied(1)
    finally:
        through.close()


async def test_an_answer_that_is_none_is_refused() -> None:
    held, through = Held(), Tampered(untouched, lambda data: b"\xff" * len(data))
    try:
        async with direct(1, PAGES, content=held, via=through.in_front_of) as link:
            link.here[0].stamp(range(PAGES), 1)
            with pytest.raises(RemoteProtocolError, match="answered"):
                await asyncio.to_thread(link.sender.send_round, 1, [work(0, link.here[0], WHOLE)])
    finally:
        through.close()


async def test_holes_and_zeros_are_not_offered() -> None:
    """A page that is not sent must not be filled: the machine has a hole there."""
    held = Held()
    async with direct(1, PAGES, content=held) as link:
        link.here[0].stamp(range(2 * CHUNK_PAGES), 1)
        held.hold(link.here[0], range(CHUNKS))
        sent = await first_round(link, runs((1, CHUNK_PAGES - 1), (CHUNK_PAGES, PAGES // 2)))
        assert held.asked == [chunk_digest(chunk_of(link.here[0], 1))]
        assert sent.content_bytes == CHUNK_BYTES
        assert not link.there[0].pages[0].any()
        assert np.array_equal(link.here[0].pages[1:], link.there[0].pages[1:])


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    connections=st.integers(1, 3),
    held_chunks=st.sets(st.integers(0, CHUNKS - 1)),
    zero_chunks=st.sets(st.integers(0, CHUNKS - 1), max_size=3),
    holes=st.sets(st.integers(0, PAGES - 1), max_size=4),
    written=st.lists(st.integers(0, PAGES - 1), max_size=12),
)
async def test_any_memory_any_store_and_writes_meanwhile(
    connections: int,
    held_chunks: set[int],
    zero_chunks: set[int],
    holes: set[int],
    written: list[int],
) -> None:
    """Pages that are written while chunks are offered are dirty: round two makes all equal."""
    held, waiting = Held(), iter(written)
    async with direct(connections, PAGES, content=held) as link:
        source = link.here[0]
        source.stamp(range(PAGES), 1)
        for chunk in zero_chunks:
            source.pages[chunk * CHUNK_PAGES : (chunk + 1) * CHUNK_PAGES] = 0
        source.pages[sorted(holes)] = 0
        held.hold(source, sorted(held_chunks))

        def write() -> None:
            for page in waiting:
                source.stamp([page], 1000 + page)
                return

        held.on_fill = write
        present = sorted(set(range(PAGES)) - holes)
        await first_round(link, runs_of_pages(present))
        for page in waiting:
            source.stamp([page], 1000 + page)
        await link.move(2, work(0, source, runs_of_pages(sorted(set(written)))))
        assert np.array_equal(source.pages, link.there[0].pages)


@given(
    st.integers(1, 3000),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 200)), max_size=4),
)
def test_a_stretch_that_is_held_is_found(count: int, stretches: list[tuple[int, int]]) -> None:
    held = {c for first, length in stretches for c in range(first, first + length) if c < count}
    memory = np.ones((count, 8), np.uint8)
    asked: list[int] = []

    def ask(chunks: np.ndarray, digests: bytes) -> np.ndarray:
        assert 1 <= len(chunks) <= OFFERED_CHUNKS_MAX
        asked.extend(chunks.tolist())
        return np.array([chunk in held for chunk in chunks.tolist()])

    found = filled(_Chunked(memory), np.arange(count), ask).tolist()  # type: ignore[arg-type]
    assert found == sorted(set(asked) & held)
    assert len(asked) == len(set(asked))
    stride = max(SAMPLED_ONE_IN, -(-count // SAMPLED_CHUNKS_MAX))
    if not held:
        assert len(asked) <= SAMPLED_CHUNKS_MAX
    if all(first <= count - length and length >= stride for first, length in stretches):
        assert set(found) == held, "a stretch is as long as what lies between two of the sample"


class _Chunked:
    """Memory of which each chunk is one row: what is offered is counted, not what it contains."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __getitem__(self, pages: slice) -> np.ndarray:
        return self._rows[pages.start // CHUNK_PAGES : pages.stop // CHUNK_PAGES]


def test_only_whole_chunks_are_offered() -> None:
    some = runs((1, 2 * CHUNK_PAGES), (4 * CHUNK_PAGES, CHUNK_PAGES - 1), (6 * CHUNK_PAGES, 1024))
    assert whole_chunks(some, 0, 1).tolist() == [1, 6, 7]
    assert whole_chunks(some, 1, 2).tolist() == [1, 7]
