"""Control messages and preambles: any cut of the stream, every kind of damage."""

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.errors import LocalProtocolError, RemoteProtocolError
from godwit_protocol.framing import (
    CONTROL_PAYLOAD_BYTES_MAX,
    PREAMBLE_BYTES,
    ControlReader,
    Frame,
    FrameKind,
    Preamble,
    decode_preamble,
    encode_control,
    encode_header,
    encode_preamble,
    session_of,
)

BULK_HELLO = Preamble(FrameKind.BULK_HELLO, b"s" * 8, b"t" * 32, connection=3, connections=4)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(borders)]


@given(payloads=st.lists(st.binary(max_size=200), max_size=8), places=st.lists(st.integers(0)))
def test_any_cut_of_the_stream_gives_the_same_messages(payloads, places):
    stream = b"".join(encode_control(payload) for payload in payloads)
    reader = ControlReader()
    messages = [message for piece in cut(stream, places) for message in reader.feed(piece)]
    assert messages == payloads


@given(payload=st.binary(min_size=1, max_size=100), bit=st.integers(0))
def test_a_flipped_bit_is_refused_or_leaves_the_message_incomplete(payload, bit):
    stream = bytearray(encode_control(payload))
    bit %= len(stream) * 8
    stream[bit // 8] ^= 1 << bit % 8
    try:
        messages = ControlReader().feed(stream)
    except RemoteProtocolError:
        return
    assert bit < 32, "only a damaged length may go unnoticed, and only until its bytes have come"
    assert messages == []


@given(garbage=st.binary(max_size=300))
def test_garbage_never_gives_a_message_that_was_not_sent(garbage):
    reader = ControlReader()
    try:
        messages = reader.feed(garbage)
    except RemoteProtocolError:
        return
    assert garbage.startswith(b"".join(encode_control(message) for message in messages))


def test_the_largest_message_passes_and_one_byte_more_does_not():
    largest = bytes(CONTROL_PAYLOAD_BYTES_MAX)
    assert ControlReader().feed(encode_control(largest)) == [largest]
    with pytest.raises(LocalProtocolError):
        encode_control(largest + b"x")
    with pytest.raises(RemoteProtocolError, match="announces"):
        ControlReader().feed(struct.pack("<II", CONTROL_PAYLOAD_BYTES_MAX + 1, 0))


def test_a_reader_that_refused_stays_refused():
    reader = ControlReader()
    with pytest.raises(RemoteProtocolError, match="checksum"):
        reader.feed(struct.pack("<II", 1, zlib.crc32(b"a")) + b"b")
    with pytest.raises(LocalProtocolError):
        reader.feed(encode_control(b"fine"))


@pytest.mark.parametrize("kind", [FrameKind.CONTROL_HELLO, FrameKind.BULK_HELLO])
def test_a_preamble_comes_back_as_it_went(kind):
    preamble = Preamble(kind, session_of("m-1"), bytes(range(32)), 3, 4)
    assert decode_preamble(encode_preamble(preamble)) == preamble


def test_sessions_of_two_migrations_differ():
    assert session_of("m-1") != session_of("m-2")


@pytest.mark.parametrize(
    "preamble",
    [
        Preamble(FrameKind.CONTROL_HELLO, b"short", b"t" * 32),
        Preamble(FrameKind.CONTROL_HELLO, b"s" * 8, b"short"),
    ],
)
def test_a_preamble_of_a_wrong_shape_is_not_sent(preamble):
    with pytest.raises(LocalProtocolError):
        encode_preamble(preamble)


@given(data=st.binary(max_size=2 * PREAMBLE_BYTES))
def test_garbage_is_no_preamble(data):
    with pytest.raises(RemoteProtocolError):
        decode_preamble(data)


@given(bit=st.integers(0, (PREAMBLE_BYTES - 32) * 8 - 1))
def test_a_flipped_bit_in_a_preambles_header_is_refused(bit):
    damaged = bytearray(encode_preamble(BULK_HELLO))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteProtocolError):
        decode_preamble(damaged)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(FrameKind.RUN, b"s" * 8, 0, 0, payload_bytes=32),
        Frame(FrameKind.BULK_HELLO, b"s" * 8, 0, 1, payload_bytes=32),
        Frame(FrameKind.BULK_HELLO, b"s" * 8, 0, 0, payload_bytes=31),
    ],
)
def test_another_frame_is_no_preamble(frame):
    with pytest.raises(RemoteProtocolError):
        decode_preamble(encode_header(frame) + b"t" * 32)
