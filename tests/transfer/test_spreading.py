"""Pages go over as many connections as are measured to carry most; none overtakes another."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from direct_link import DEADLINE_S, Direct, direct, runs, work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.transfer import sender
from godwit.transfer.sender import SentRound
from godwit_protocol.bulk import CHUNK_PAGES, BulkLink, BulkReader, BulkWriter
from godwit_protocol.connections import Carried
from godwit_protocol.errors import GodwitError, LocalProtocolError, RemoteProtocolError
from godwit_protocol.framing import HEADER_BYTES, Frame, FrameKind
from tampering import Tampered

PAGES = 8 * CHUNK_PAGES


async def round_of(
    link: Direct, number: int, pages: int = PAGES, *, in_stun: bool = False
) -> SentRound:
    """The first ``pages``, which are new."""
    link.here[0].stamp(range(pages), number)
    everything = [work(0, link.here[0], runs((0, pages)))]
    async with asyncio.timeout(DEADLINE_S):
        sent = await asyncio.to_thread(link.sender.send_round, number, everything, in_stun=in_stun)
        await link.session.round_applied(number)
    assert np.array_equal(link.here[0].pages, link.there[0].pages)
    return sent


@pytest.mark.parametrize("digested", [True, False])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 4))
def test_all_arrives_over_whatever_number_of_connections(
    digested: bool, numbers: list[int], first: int
) -> None:
    async def scenario() -> None:
        async with direct(4, PAGES, digested=digested, spread=first) as link:
            assert (await round_of(link, 1)).connections == first
            for index, number in enumerate(numbers):
                for outgoing in link.sender._outgoing:
                    outgoing.spread_over(number)
                link.sender._spread = 0  # as it is told
                assert (await round_of(link, 2 + index)).connections == number
            assert link.session.applied_digest() == link.sender.sent_digest()

    asyncio.run(scenario())


async def test_a_number_is_tried_and_kept_if_it_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates are made up: with four connections twice that with two."""
    rates = {1: 1.0, 2: 2.0, 4: 4.0}

    def carried(connections: int, _rate: float) -> Carried:
        return Carried(connections, rates[connections])

    monkeypatch.setattr(sender, "TELLING_BYTES", 1)
    monkeypatch.setattr(sender, "Carried", carried)
    async with direct(4, PAGES, spread=2) as link:
        used = [(await round_of(link, number)).connections for number in range(1, 6)]
        assert used == [2, 2, 4, 4, 4]
        rates[4] = 1.0
        used = [(await round_of(link, number)).connections for number in (6, 7, 8)]
        assert used == [4, 1, 2], "it has become slower; its neighbour is tried, and is not better"


async def test_nothing_is_tried_where_rounds_shrink_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "TELLING_BYTES", 1)
    async with direct(4, PAGES, spread=2) as link:
        rounds = [(1, PAGES), (2, PAGES), (3, PAGES // 2 - 1), (4, PAGES // 2 - 1)]
        assert [(await round_of(link, *each)).connections for each in rounds] == [2, 2, 2, 4]


async def test_nothing_is_tried_in_the_stun_or_where_the_number_is_the_operators() -> None:
    async with direct(4, PAGES) as link:
        assert [(await round_of(link, number)).connections for number in (1, 2, 3)] == [4, 4, 4]
    async with direct(4, PAGES, spread=2) as link:
        await round_of(link, 1)
        link.sender._carried.append(Carried(2, 1.0))
        assert (await round_of(link, 2, in_stun=True)).connections == 2


def test_a_change_comes_first_in_its_round_and_within_the_link() -> None:
    link = BulkLink(b"session1", 2, (PAGES,))
    writer, reader = BulkWriter(link, 1), BulkReader(link, 1)
    assert reader.take_header(writer.spread_over(1)).page_count == 1
    with pytest.raises(LocalProtocolError, match="another connection"):
        writer.run(0, CHUNK_PAGES, 1)
    reader.take_header(writer.spread_over(2))
    writer.run(0, CHUNK_PAGES, 1)
    for wrong in (0, 3):
        with pytest.raises(LocalProtocolError, match="spreads over"):
            writer.spread_over(wrong)
    other = BulkWriter(link, 1)
    reader = BulkReader(link, 1)
    reader.take_header(other.zero(0, CHUNK_PAGES, 1))
    with pytest.raises(RemoteProtocolError, match="inside a round"):
        reader.take_header(other.spread_over(1)[:HEADER_BYTES])


def late(frame: Frame, payload: bytes) -> list[tuple[Frame, bytes]]:
    """The second connection ends no round."""
    is_end = frame.kind is FrameKind.ROUND_END and frame.connection == 1
    return [] if is_end else [(frame, payload)]


async def test_a_change_while_a_round_is_under_way_is_refused() -> None:
    """An older page on one connection could land on a newer one of another."""
    through = Tampered(late)
    try:
        async with direct(2, PAGES, via=through.in_front_of) as link:
            everything = [work(0, link.here[0], runs((0, PAGES)))]
            await asyncio.to_thread(link.sender.send_round, 1, everything)
            link.sender._outgoing[0].spread_over(1)
            await asyncio.to_thread(link.sender._outgoing[0].send_round, [])
            with pytest.raises(GodwitError, match="round 1 is under way"):
                async with asyncio.timeout(DEADLINE_S):
                    await link.session.round_applied(2)
    finally:
        through.close()
