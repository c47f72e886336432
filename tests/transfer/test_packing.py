"""What is compressed comes back as it was; what was not is refused, and is bounded."""

from __future__ import annotations

import contextlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from godwit.transfer.packing import Packer
from godwit_protocol.compression import METHODS, Compression
from godwit_protocol.errors import CorruptError, LocalProtocolError

PACKER = Packer()
METHOD = st.sampled_from(METHODS)


@given(METHOD, st.binary(min_size=1, max_size=300), st.integers(1, 50))
def test_it_comes_back_as_it_was(method: Compression, some: bytes, times: int) -> None:
    data = some * times
    packed = PACKER.packed(method, memoryview(data))
    assert PACKER.unpacked(method, memoryview(packed), len(data)) == data
    for wrong in (len(data) - 1, len(data) + 1):
        with pytest.raises(CorruptError):
            PACKER.unpacked(method, packed, wrong)


@given(METHOD, st.binary(max_size=300), st.integers(1, 1 << 21))
def test_any_bytes_are_refused_or_give_what_was_asked_for(
    method: Compression, packed: bytes, byte_count: int
) -> None:
    with contextlib.suppress(CorruptError):
        assert len(PACKER.unpacked(method, packed, byte_count)) == byte_count


@given(METHOD, st.binary(min_size=1, max_size=300), st.data())
def test_what_is_cut_off_or_goes_on_is_refused(
    method: Compression, some: bytes, data: st.DataObject
) -> None:
    packed = PACKER.packed(method, some)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + b"\0"):
        with pytest.raises(CorruptError):
            PACKER.unpacked(method, wrong, len(some))


def test_a_frame_that_announces_a_terabyte_allocates_nothing() -> None:
    """``ZSTD``: a frame says itself what it comes to, in its header."""
    bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(1 << 20)))
    assert bomb[4] >> 6 == 2, "four bytes of size"
    bomb[4] |= 0b1100_0000
    bomb[5:9] = (1 << 40).to_bytes(8, "little")
    assert zstandard.frame_content_size(bytes(bomb)) == 1 << 40
    with pytest.raises(CorruptError, match="announces 1099511627776"):
        PACKER.unpacked(Compression.ZSTD, bytes(bomb), 1 << 20)


def test_nothing_is_compressed_by_no_method() -> None:
    with pytest.raises(LocalProtocolError):
        PACKER.packed(Compression.NONE, b"data")
