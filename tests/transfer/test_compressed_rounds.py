"""Rounds that go out compressed arrive as they are, and only where that is measured to pay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import numpy as np
import pytest
from direct_link import DEADLINE_S, Direct, Memory, direct, runs, work
from text_guest import words

from godwit.transfer import compressing
from godwit.transfer.compressing import Compressing, Flow
from godwit.transfer.outgoing import RegionWork
from godwit.transfer.partition import PageView, Runs
from godwit.transfer.sender import SentRound
from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.compression import METHODS, Compression, Sample
from godwit_protocol.errors import CorruptError, GodwitError, UnreachableError
from godwit_protocol.framing import Frame, FrameKind
from tampering import Tamper, Tampered, flipped_bit

PAGES = 4 * CHUNK_PAGES
MBYTE = 1_000_000
TEXT = np.frombuffer(words(PAGES * 4096), np.uint8).reshape(-1, 4096)
LZ4, ZSTD = Compression.LZ4, Compression.ZSTD


class Told:
    """A pace that says what it is and holds nothing back, so that a test takes no time."""

    def __init__(self, bytes_per_second: int = MBYTE) -> None:
        self.bytes_per_second = bytes_per_second
        self.taken = 0

    def take(self, byte_count: int) -> None:
        self.taken += byte_count

    def lift(self) -> None:
        pass


def fill(memory: Memory) -> Runs:
    """Text, random bytes, zeros, and pages that lie alone."""
    memory.pages[:] = TEXT
    memory.stamp(range(600, 900), 1)
    memory.pages[1000:1100] = 0
    lonely = [(page, 1) for page in range(1600, 1900, 2)]
    return runs((0, 1500), *lonely, (1990, 2))


async def round_of(
    link: Direct, to_send: Runs, number: int = 1, *, in_stun: bool = False
) -> SentRound:
    async with asyncio.timeout(DEADLINE_S):
        sending = [work(0, link.here[0], to_send)]
        sent = await asyncio.to_thread(link.sender.send_round, number, sending, in_stun=in_stun)
        await link.session.round_applied(number)
    return sent


@pytest.mark.parametrize("digested", [True, False])
@pytest.mark.parametrize("methods", [(LZ4,), (ZSTD,), METHODS])
async def test_a_slow_link_carries_less_and_all_arrives(
    methods: tuple[Compression, ...], digested: bool
) -> None:
    pacer = Told()
    async with direct(1, PAGES, pacer=pacer, digested=digested, compressions=methods) as link:
        to_send = fill(link.here[0])
        first = await round_of(link, to_send)
        sent = [page for start, count in to_send.tolist() for page in range(start, start + count)]
        assert np.array_equal(link.here[0].pages[sent], link.there[0].pages[sent])
        assert first.compression in methods
        assert first.compression_bytes > 0.2 * first.sent_bytes
        assert 0 < first.compression_ns < first.duration_ns
        carried = first.sent_bytes - first.compression_bytes
        assert carried < first.wire_bytes < carried * 1.01
        assert first.wire_bytes - 4096 < pacer.taken <= first.wire_bytes, "the cap is of the wire"
        assert first.link_bytes_per_second == MBYTE

        link.here[0].pages[:300] = TEXT[300:600]
        link.here[0].pages[400:700] = TEXT[400:700]
        again = await round_of(link, runs((0, 300), (400, 300)), 2)
        assert again.compression_bytes > 0
        await round_of(link, runs((0, 300), (400, 300)), 3)  # of which nothing has changed
        assert np.array_equal(link.here[0].pages[sent], link.there[0].pages[sent])
        assert link.session.applied_digest() == link.sender.sent_digest()


async def test_random_bytes_go_out_as_they_are() -> None:
    async with direct(2, PAGES, pacer=Told(), compressions=METHODS) as link:
        link.here[0].stamp(range(PAGES), 1)
        sent = await round_of(link, runs((0, PAGES)))
        assert (sent.compression, sent.compression_bytes) == (Compression.NONE, 0)
        assert sent.link_bytes_per_second == 0
        assert 0 < sent.compression_ns < sent.duration_ns, "what trying it took is told"


async def test_what_repeats_farther_off_than_a_method_sees_is_not_mistaken_for_a_gain() -> None:
    """The places that are tried are evenly spaced, and so is what these pages hold."""
    async with direct(1, PAGES, pacer=Told(), compressions=(LZ4,)) as link:
        link.here[0].stamp(range(64), 1)
        link.here[0].pages[:] = np.tile(link.here[0].pages[:64], (PAGES // 64, 1))
        sent = await round_of(link, runs((0, PAGES)))
        assert (sent.compression, sent.compression_bytes) == (Compression.NONE, 0)
        assert sent.compression_ns > 0


@pytest.mark.parametrize(
    ("pacer", "in_stun", "methods"),
    [(Told(0), False, METHODS), (Told(), True, METHODS), (Told(), False, ())],
    ids=["a link that is not known", "the stun", "what was not agreed on"],
)
async def test_nothing_is_tried_in(
    pacer: Told, in_stun: bool, methods: tuple[Compression, ...]
) -> None:
    async with direct(1, PAGES, pacer=pacer, compressions=methods) as link:
        fill(link.here[0])
        sent = await round_of(link, runs((0, 1000)), in_stun=in_stun)
        assert (sent.compression, sent.compression_bytes) == (Compression.NONE, 0)
        assert sent.compression_ns == 0
        assert np.array_equal(link.here[0].pages[:1000], link.there[0].pages[:1000])


async def test_what_is_compressed_is_a_copy_that_no_guest_writes() -> None:
    """A compressor that reads what changes would make bytes that never were."""
    async with direct(2, PAGES, pacer=Told(), compressions=(LZ4,)) as link:
        pages = link.here[0].pages
        pages[:] = TEXT
        sending = asyncio.create_task(round_of(link, runs((0, PAGES))))
        count = 0
        while not sending.done():
            pages[:, count % 4096] += 1
            count += 1
            await asyncio.sleep(0)
        assert (await sending).compression is LZ4
        assert count
        assert link.session.applied_digest() == link.sender.sent_digest()


def garbage(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    """As long as what was sent, and nothing that a compressor makes."""
    is_packed = frame.kind in (FrameKind.RUN_LZ4, FrameKind.RUN_ZSTD)
    return [(frame, b"\xff" * len(payload) if is_packed else payload)]


@pytest.mark.parametrize(
    ("tamper", "method", "digested"),
    [
        (flipped_bit(FrameKind.RUN_LZ4), LZ4, True),
        (flipped_bit(FrameKind.RUN_ZSTD), ZSTD, True),
        (flipped_bit(FrameKind.SCATTER_LZ4), LZ4, True),
        (flipped_bit(FrameKind.SCATTER_ZSTD), ZSTD, True),
        (garbage, LZ4, False),
        (garbage, ZSTD, False),
    ],
)
async def test_a_corrupt_frame_is_found(
    tamper: Tamper, method: Compression, digested: bool
) -> None:
    through = Tampered(tamper)
    try:
        async with direct(
            1,
            PAGES,
            pacer=Told(),
            digested=digested,
            compressions=(method,),
            via=through.in_front_of,
        ) as link:
            sending = [work(0, link.here[0], fill(link.here[0]))]
            with contextlib.suppress(UnreachableError):  # the source may find all closed first
                await asyncio.to_thread(link.sender.send_round, 1, sending)
            with pytest.raises(GodwitError) as found:
                async with asyncio.timeout(DEADLINE_S):
                    await link.session.round_applied(1)
            assert isinstance(found.value, CorruptError)
    finally:
        through.close()


class Measured:
    """A round whose figures a test makes up, over two connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cap: int = 0) -> None:
        monkeypatch.setattr(compressing, "WARM_NS", 0)
        monkeypatch.setattr(compressing, "SPAN_NS", 0)
        self.pace = Told(cap)
        self.choice = Compressing(METHODS, self.pace)
        self.begin()

    def begin(self, memory: Sequence[RegionWork] | None = None) -> None:
        text = RegionWork(0, TEXT, runs((0, PAGES)))
        self.flows = [Flow(), Flow()]
        self.choice.begin_round([text] if memory is None else memory, self.flows, in_stun=False)
        self.choice.look()  # it is warm now

    def passed(self, wire: int, *, rate: int, saved: int = 0, packing_ns: int = 0) -> Compression:
        """On each connection so much, over a link of ``rate`` bytes a second for both."""
        for flow in self.flows:
            flow.wire_bytes += wire
            flow.saved_bytes += saved
            flow.sending_ns += wire * 2 * 1_000_000_000 // rate
            flow.packing_ns += packing_ns
        self.choice.look()
        return self.choice.method


def test_a_link_that_is_measured_to_be_slow_is_compressed_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    round_ = Measured(monkeypatch)
    assert round_.choice.method is Compression.NONE
    assert round_.passed(1000, rate=MBYTE) is Compression.NONE, "so little says nothing"
    assert round_.passed(8 * MBYTE, rate=MBYTE) in METHODS
    # While it is compressed the sockets are not full; a faster link is not seen in that.
    assert round_.passed(MBYTE * 2, rate=10**12, saved=6 * MBYTE) in METHODS
    assert round_.choice.end_round() == pytest.approx(MBYTE, rel=0.01)
    round_.begin()
    assert round_.choice.method is Compression.NONE, "each round is measured anew"
    assert round_.choice.end_round() == 0


def test_one_slow_span_is_no_slow_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers take what comes in gulps. Nor is a link believed to have become slower at once, while
    pages are compressed: what did not pay would seem to.
    """
    round_ = Measured(monkeypatch)
    monkeypatch.setattr(
        Compressing, "_tried", lambda _self, method, _pages: Sample(method, 100, 50, 500)
    )  # pays on links of less than 0.12 GB/s
    for rate in (200, 200, 200, 80, 200, 200, 80):
        assert round_.passed(8 * MBYTE, rate=rate * MBYTE) is Compression.NONE
    assert round_.passed(8 * MBYTE, rate=80 * MBYTE) in METHODS
    round_.passed(8 * MBYTE, rate=20 * MBYTE, saved=8 * MBYTE)
    assert round_.choice.method is Compression.NONE, "it took twice as long as without"


def test_a_fast_link_is_not_compressed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    round_ = Measured(monkeypatch)
    for _ in range(3):
        assert round_.passed(8 * MBYTE, rate=10**12) is Compression.NONE
    round_.passed(8 * MBYTE, rate=MBYTE)
    assert round_.passed(8 * MBYTE, rate=MBYTE) in METHODS, "it has become slow"
    round_.pace.bytes_per_second = 10**12
    assert round_.passed(8 * MBYTE, rate=MBYTE, saved=8 * MBYTE) in METHODS, "a cap is no link"


def test_a_sample_that_somebody_else_interrupted_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But not without end: a compressor that is slow is."""
    hour_ns = 3600 * 10**9
    works, tried = [hour_ns, 1000, 1000, *[hour_ns] * compressing.TRIES_MAX], Compressing._tried

    def made_up(choice: Compressing, method: Compression, pages: PageView) -> Sample:
        return tried(choice, method, pages)._replace(work_ns=works.pop(0))

    monkeypatch.setattr(Compressing, "_tried", made_up)
    round_ = Measured(monkeypatch)
    assert round_.passed(8 * MBYTE, rate=100 * MBYTE) is Compression.NONE
    assert round_.passed(8 * MBYTE, rate=100 * MBYTE) in METHODS
    round_ = Measured(monkeypatch)
    del works[: -compressing.TRIES_MAX]
    for _ in range(compressing.TRIES_MAX + 1):
        assert round_.passed(8 * MBYTE, rate=100 * MBYTE) is Compression.NONE
    assert works == []


def test_a_cap_that_is_lifted_leaves_the_link_to_be_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    round_ = Measured(monkeypatch, cap=MBYTE)
    assert round_.choice.method in METHODS, "the cap is known before anything was sent"
    round_.pace.bytes_per_second = 0
    assert round_.passed(8 * MBYTE, rate=10**12, saved=8 * MBYTE) is Compression.NONE
    assert round_.passed(8 * MBYTE, rate=10**12) is Compression.NONE


def test_what_does_not_pay_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the round; and after some rounds for good."""
    round_ = Measured(monkeypatch, cap=MBYTE)
    for _ in range(compressing.MISSES_MAX):
        assert round_.choice.method in METHODS
        hour_ns = 3600 * 10**9
        assert round_.passed(2 * MBYTE, rate=MBYTE, saved=MBYTE, packing_ns=hour_ns) is (
            Compression.NONE
        )
        assert round_.passed(8 * MBYTE, rate=MBYTE) is Compression.NONE
        round_.begin()
    assert round_.choice.method is Compression.NONE


def test_a_round_is_sampled_wherever_its_pages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scattered over two regions; what is zero tells nothing."""
    round_ = Measured(monkeypatch, cap=MBYTE)
    zeros = np.zeros((CHUNK_PAGES, 4096), np.uint8)
    scattered = runs(*((page, 1) for page in range(0, 600, 2)))
    round_.begin([RegionWork(0, zeros, runs((0, CHUNK_PAGES))), RegionWork(1, TEXT, scattered)])
    assert round_.choice.method in METHODS
    round_.begin([RegionWork(0, zeros, runs((0, CHUNK_PAGES)))])
    assert round_.choice.method is Compression.NONE
    round_.begin([RegionWork(1, TEXT, scattered[:100])])
    assert round_.choice.method is Compression.NONE, "so small a round is through before"
