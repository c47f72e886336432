"""Bulk frames: any cut gives the same ones; lost, doubled, damaged and foreign ones are refused."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_stream import BulkStream
from godwit_protocol.bulk import (
    CHUNK_PAGES,
    OFFERED_CHUNKS_MAX,
    ROUNDS_MAX,
    SCATTER_PAGES_MAX,
    TOTALS_BYTES,
    BulkLink,
    BulkReader,
    BulkWriter,
    HeaderNeeded,
    PayloadNeeded,
    RoundTotals,
    connection_of_page,
    payload_bytes,
)
from godwit_protocol.compression import Compression
from godwit_protocol.errors import LocalProtocolError, RemoteProtocolError
from godwit_protocol.framing import (
    HEADER_BYTES,
    Frame,
    FrameKind,
    decode_header,
    encode_header,
)

LINK = BulkLink(b"session1", 1, (4 * CHUNK_PAGES, 100))
PAGES = st.tuples(
    st.sampled_from([FrameKind.RUN, FrameKind.SCATTER, FrameKind.ZERO]),
    st.integers(0, 99),
    st.integers(1, 2),
)


def pages_frame(writer: BulkWriter, kind: FrameKind, first: int, count: int) -> bytes:
    count = min(count, 100 - first)
    if kind is FrameKind.RUN:
        header = writer.run(1, first, count)
    elif kind is FrameKind.ZERO:
        header = writer.zero(1, first, count)
    else:
        header = writer.scatter(1, count)
    return header + bytes([first]) * payload_bytes(kind, count)


def stream_of(rounds: list[list[tuple[FrameKind, int, int]]]) -> list[bytes]:
    """One byte string a frame."""
    writer = BulkWriter(LINK, 0)
    frames = []
    for frames_of_round in rounds:
        frames += [pages_frame(writer, *pages) for pages in frames_of_round]
        frames.append(writer.round_end())
    return [*frames, writer.end()]


@given(rounds=st.lists(st.lists(PAGES, max_size=3), max_size=3), places=st.lists(st.integers(0)))
def test_any_cut_of_the_stream_gives_the_same_frames(rounds, places):
    frames = stream_of(rounds)
    stream = b"".join(frames)
    borders = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    whole, reader = BulkStream(BulkReader(LINK, 0)), BulkReader(LINK, 0)
    pieces = BulkStream(reader)
    came = [pair for a, b in itertools.pairwise(borders) for pair in pieces.feed(stream[a:b])]
    assert came == whole.feed(stream)
    assert [encode_header(frame) + payload for frame, payload in came] == frames
    assert reader.need is None
    assert reader.round_number == len(rounds) + 1


@given(garbage=st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_garbage_is_refused(garbage):
    with pytest.raises(RemoteProtocolError):
        BulkReader(LINK, 0).take_header(garbage)


@given(byte_count=st.integers(0, 2 * HEADER_BYTES).filter(lambda count: count != HEADER_BYTES))
def test_a_header_of_a_wrong_length_is_refused(byte_count):
    with pytest.raises(RemoteProtocolError):
        BulkReader(LINK, 0).take_header(bytes(byte_count))


@given(bit=st.integers(0, HEADER_BYTES * 8 - 1), kind=st.sampled_from(["run", "zero", "scatter"]))
def test_every_flipped_bit_in_a_header_is_refused(bit, kind):
    writer = BulkWriter(LINK, 0)
    header = bytearray(
        writer.scatter(0, 7) if kind == "scatter" else getattr(writer, kind)(0, 600, 7)
    )
    header[bit // 8] ^= 1 << bit % 8
    reader = BulkReader(LINK, 0)
    with pytest.raises(RemoteProtocolError):
        reader.take_header(header)
    assert reader.need is None


def run_frame(**changes: object) -> Frame:
    frame = Frame(FrameKind.RUN, LINK.session, 0, 1, 1, 1, 10, 5, 5 * 4096)
    return msgspec.structs.replace(frame, **changes)


def test_the_frame_that_the_next_test_changes_is_good():
    assert BulkReader(LINK, 0).take_header(encode_header(run_frame())) == run_frame()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"session": b"session2"}, "another migration"),
        ({"connection": 1}, "connection 1"),
        ({"sequence": 0}, "lost or doubled"),
        ({"sequence": 2}, "lost or doubled"),
        ({"round_number": 0}, "round 0"),
        ({"round_number": 2}, "round 2"),
        ({"region": 2}, "region 2 of 2"),
        ({"first_page": 96}, "page 101 of region 1"),
        ({"first_page": 2**64 - 1}, "across a chunk"),
        ({"first_page": 2**64 - 512}, "of region 1"),
        ({"page_count": 0, "payload_bytes": 0}, "0 pages"),
        ({"page_count": 513, "payload_bytes": 513 * 4096, "region": 0}, "across a chunk"),
        ({"first_page": 510, "region": 0}, "across a chunk"),
        ({"payload_bytes": 5 * 4096 + 1}, "payload"),
        ({"payload_bytes": 0}, "payload"),
        ({"kind": FrameKind.SCATTER}, "payload"),
        ({"kind": FrameKind.ZERO}, "payload"),
        ({"kind": FrameKind.ROUND_END, "payload_bytes": TOTALS_BYTES}, "names pages"),
        ({"kind": FrameKind.END, "payload_bytes": 0}, "names pages"),
        ({"kind": FrameKind.BULK_HELLO, "payload_bytes": 32}, "not the first"),
        ({"kind": FrameKind.CONTROL_HELLO, "payload_bytes": 32}, "not the first"),
    ],
)
def test_a_frame_that_is_wrong_in_one_thing_is_refused(changes, message):
    reader = BulkReader(LINK, 0)
    with pytest.raises(RemoteProtocolError, match=message):
        reader.take_header(encode_header(run_frame(**changes)))
    assert reader.need is None


@pytest.mark.parametrize("count", [0, SCATTER_PAGES_MAX + 1])
def test_a_scatter_is_bounded(count):
    frame = Frame(FrameKind.SCATTER, LINK.session, 0, 1, 1, 0, 0, count, count * 4104)
    with pytest.raises(RemoteProtocolError, match="scatters"):
        BulkReader(LINK, 0).take_header(encode_header(frame))
    with pytest.raises(LocalProtocolError, match="scatters"):
        BulkWriter(LINK, 0).scatter(0, count)


@given(dropped=st.integers(0, 5), doubled=st.booleans())
def test_a_lost_and_a_doubled_frame_are_noticed(dropped, doubled):
    frames = stream_of([[(FrameKind.RUN, 3, 2), (FrameKind.ZERO, 9, 1)], [(FrameKind.RUN, 7, 1)]])
    changed = frames[:dropped] + ([frames[dropped]] * 2 if doubled else []) + frames[dropped + 1 :]
    stream = BulkStream(BulkReader(LINK, 0))
    if dropped == len(frames) - 1:
        assert len(stream.feed(b"".join(changed))) == len(frames) - (not doubled)
        return
    with pytest.raises(RemoteProtocolError):
        stream.feed(b"".join(changed))


def test_totals_that_differ_are_refused():
    writer = BulkWriter(LINK, 0)
    stream = BulkStream(BulkReader(LINK, 0))
    stream.feed(writer.zero(0, 0, 5))
    end = bytearray(writer.round_end())
    end[HEADER_BYTES] ^= 1
    with pytest.raises(RemoteProtocolError, match="came"):
        stream.feed(end)


def test_totals_say_what_the_round_carried():
    writer, reader = BulkWriter(LINK, 0), BulkReader(LINK, 0)
    reader.take_header(writer.zero(0, 0, 5))
    assert reader.need == HeaderNeeded(HEADER_BYTES)
    run = reader.take_header(writer.run(0, 512, 2))
    assert reader.need == PayloadNeeded(run)
    reader.payload_taken()
    assert writer.totals == RoundTotals(7, 8192, 2)
    end = writer.round_end()
    reader.take_header(end[:HEADER_BYTES])
    assert reader.take_totals(end[HEADER_BYTES:]) == RoundTotals(7, 8192, 2)
    assert writer.totals == RoundTotals()


def test_an_end_inside_a_round_is_refused_by_both_sides():
    writer, reader = BulkWriter(LINK, 0), BulkReader(LINK, 0)
    reader.take_header(writer.zero(0, 0, 5))
    with pytest.raises(LocalProtocolError, match="END inside"):
        writer.end()
    with pytest.raises(RemoteProtocolError, match="inside a round"):
        reader.take_header(encode_header(Frame(FrameKind.END, LINK.session, 0, 2, 1)))


def test_nothing_is_written_after_the_end():
    writer = BulkWriter(LINK, 0)
    writer.end()
    with pytest.raises(LocalProtocolError, match="after END"):
        writer.run(0, 0, 1)


def test_the_writer_sends_no_frame_that_a_reader_would_refuse():
    writer = BulkWriter(LINK, 0)
    with pytest.raises(LocalProtocolError, match="of region 1"):
        writer.run(1, 99, 2)
    with pytest.raises(LocalProtocolError, match="across a chunk"):
        writer.zero(0, 511, 2)
    header = writer.run(1, 99, 1)
    assert decode_header(header).sequence == 1, "what was refused left no gap"


def test_the_shell_must_do_what_the_reader_needs():
    reader = BulkReader(LINK, 0)
    with pytest.raises(LocalProtocolError):
        reader.payload_taken()
    header = BulkWriter(LINK, 0).run(0, 0, 1)
    reader.take_header(header)
    with pytest.raises(LocalProtocolError):
        reader.take_header(header)
    with pytest.raises(LocalProtocolError):
        reader.take_totals(bytes(24))


@given(page=st.integers(0, 2**40), connections=st.integers(1, 8))
def test_a_page_has_one_connection_and_the_reader_holds_the_writer_to_it(page, connections):
    link = BulkLink(LINK.session, connections, (2**40 + 1,))
    home = connection_of_page(page, connections)
    for connection in range(connections):
        writer, reader = BulkWriter(link, connection), BulkReader(link, connection)
        if connection == home:
            assert reader.take_header(writer.run(0, page, 1)).first_page == page
        else:
            with pytest.raises(LocalProtocolError, match="another connection"):
                writer.run(0, page, 1)
            frame = Frame(FrameKind.ZERO, link.session, connection, 1, 1, 0, page, 1)
            with pytest.raises(RemoteProtocolError, match="another connection"):
                reader.take_header(encode_header(frame))


@pytest.mark.parametrize(
    "link", [BulkLink(b"short", 1, (1,)), BulkLink(b"s" * 8, 0, ()), BulkLink(b"s" * 8, 65, ())]
)
def test_a_link_that_cannot_be_is_refused(link):
    with pytest.raises(LocalProtocolError):
        BulkReader(link, 0)


def test_rounds_are_bounded_on_both_sides():
    writer, stream = BulkWriter(LINK, 0), BulkStream(BulkReader(LINK, 0))
    for _ in range(ROUNDS_MAX):
        assert len(stream.feed(writer.round_end())) == 1
    with pytest.raises(LocalProtocolError, match="over"):
        writer.round_end()


PACKED_LINK = msgspec.structs.replace(LINK, compressions=(Compression.LZ4,))


def test_a_compressed_frame_carries_its_pages_in_fewer_bytes():
    writer, reader = BulkWriter(PACKED_LINK, 0), BulkReader(PACKED_LINK, 0)
    assert reader.take_header(writer.packed_run(1, 10, 5, Compression.LZ4, 700)).page_count == 5
    reader.payload_taken()
    frame = reader.take_header(writer.packed_scatter(0, 3, Compression.LZ4, 50))
    assert (frame.kind, frame.payload_bytes) == (FrameKind.SCATTER_LZ4, 3 * 8 + 50)
    reader.payload_taken()
    assert writer.totals == RoundTotals(8, 700 + 3 * 8 + 50, 2)
    end = writer.round_end()
    reader.take_header(end[:HEADER_BYTES])
    assert reader.take_totals(end[HEADER_BYTES:]).pages == 8


@pytest.mark.parametrize(
    ("link", "changes", "message"),
    [
        (LINK, {}, "not agreed on"),
        (PACKED_LINK, {"kind": FrameKind.RUN_ZSTD}, "not agreed on"),
        (PACKED_LINK, {"payload_bytes": 5 * 4096}, "compressed"),
        (PACKED_LINK, {"payload_bytes": 0}, "compressed"),
        (PACKED_LINK, {"first_page": 96}, "page 101 of region 1"),
        (PACKED_LINK, {"page_count": 513, "region": 0}, "across a chunk"),
        (PACKED_LINK, {"region": 2}, "region 2 of 2"),
        (PACKED_LINK, {"round_number": 2}, "round 2"),
        (PACKED_LINK, {"kind": FrameKind.SCATTER_LZ4}, "scatters"),
        (
            PACKED_LINK,
            {"kind": FrameKind.SCATTER_LZ4, "first_page": 0, "payload_bytes": 5 * 8},
            "compressed",
        ),
    ],
)
def test_a_compressed_frame_is_bounded_as_what_it_comes_to(link, changes, message):
    frame = run_frame(kind=FrameKind.RUN_LZ4, payload_bytes=700)
    frame = msgspec.structs.replace(frame, **changes)
    with pytest.raises(RemoteProtocolError, match=message):
        BulkReader(link, 0).take_header(encode_header(frame))


OFFERED_BYTES = 8 + 32


def offer_frame(**changes: object) -> Frame:
    frame = Frame(FrameKind.OFFER, LINK.session, 0, 1, 1, 0, 0, 2 * CHUNK_PAGES, 2 * OFFERED_BYTES)
    return msgspec.structs.replace(frame, **changes)


def test_an_offer_carries_what_it_is_answered_with():
    writer, reader = BulkWriter(LINK, 0), BulkReader(LINK, 0)
    header = writer.offer(0, 2)
    assert reader.take_header(header) == offer_frame() == decode_header(header)
    reader.payload_taken()
    for side in (writer, reader):
        side.filled(1)
    assert writer.totals == RoundTotals(CHUNK_PAGES, 2 * OFFERED_BYTES, 1)
    end = writer.round_end()
    reader.take_header(end[:HEADER_BYTES])
    assert reader.take_totals(end[HEADER_BYTES:]).pages == CHUNK_PAGES


def test_an_answer_that_both_sides_count_otherwise_is_found():
    writer, reader = BulkWriter(LINK, 0), BulkReader(LINK, 0)
    reader.take_header(writer.offer(0, 2))
    reader.payload_taken()
    writer.filled(1)
    end = writer.round_end()
    reader.take_header(end[:HEADER_BYTES])
    with pytest.raises(RemoteProtocolError, match="came"):
        reader.take_totals(end[HEADER_BYTES:])


@pytest.mark.parametrize(
    "changes",
    [
        {"page_count": 0, "payload_bytes": 0},
        {"page_count": 2 * CHUNK_PAGES + 1},
        {
            "page_count": (OFFERED_CHUNKS_MAX + 1) * CHUNK_PAGES,
            "payload_bytes": (OFFERED_CHUNKS_MAX + 1) * OFFERED_BYTES,
        },
        {"first_page": 1},
        {"payload_bytes": 0},
        {"region": 2},
    ],
)
def test_an_offer_of_another_shape_is_refused(changes):
    with pytest.raises(RemoteProtocolError):
        BulkReader(LINK, 0).take_header(encode_header(offer_frame(**changes)))


def test_only_the_first_round_has_offers():
    writer, reader = BulkWriter(LINK, 0), BulkReader(LINK, 0)
    end = writer.round_end()
    reader.take_header(end[:HEADER_BYTES])
    reader.take_totals(end[HEADER_BYTES:])
    with pytest.raises(LocalProtocolError, match="first round"):
        writer.offer(0, 2)
    with pytest.raises(RemoteProtocolError, match="first round"):
        reader.take_header(encode_header(offer_frame(sequence=2, round_number=2)))
