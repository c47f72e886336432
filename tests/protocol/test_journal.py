from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.errors import CorruptError, InvalidInputError
from godwit_protocol.journal import (
    RECORD_BYTES_MAX,
    SECTOR_BYTES,
    JournalCorruptError,
    decode_journal,
    encode_record,
)

payload_lists = st.lists(st.binary(max_size=60), max_size=6)


def journal_of(payloads: list[bytes]) -> bytes:
    return b"".join(encode_record(payload) for payload in payloads)


@given(payload_lists)
def test_what_was_written_is_read(payloads: list[bytes]) -> None:
    data = journal_of(payloads)
    journaled = decode_journal(data)
    assert journaled.payloads == tuple(payloads)
    assert journaled.whole_bytes == len(data)


@given(payload_lists, st.data())
def test_a_journal_cut_anywhere_gives_its_whole_records(
    payloads: list[bytes], draw: st.DataObject
) -> None:
    data = journal_of(payloads)
    cut = draw.draw(st.integers(0, len(data)))
    journaled = decode_journal(data[:cut])
    whole = len(journaled.payloads)
    assert journaled.payloads == tuple(payloads[:whole])
    assert journaled.whole_bytes == len(journal_of(payloads[:whole])) <= cut
    assert whole == len(payloads) or len(journal_of(payloads[: whole + 1])) > cut


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.data())
def test_a_flipped_bit_anywhere_is_corruption_and_never_a_torn_tail(
    payloads: list[bytes], draw: st.DataObject
) -> None:
    data = bytearray(journal_of(payloads))
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(JournalCorruptError):
        decode_journal(bytes(data))


@given(payload_lists, st.integers(1, 3 * SECTOR_BYTES))
def test_a_file_that_grew_before_its_bytes_came_is_torn(payloads: list[bytes], grown: int) -> None:
    data = journal_of(payloads)
    assert decode_journal(data + bytes(grown)).whole_bytes == len(data)


@given(payload_lists, st.integers(1, 3))
def test_a_record_whose_last_sectors_did_not_come_is_torn(
    payloads: list[bytes], sectors: int
) -> None:
    data = journal_of(payloads)
    longer = data + encode_record(b"x" * 4 * SECTOR_BYTES)
    last_boundary = len(longer) // SECTOR_BYTES * SECTOR_BYTES
    hole = last_boundary - (sectors - 1) * SECTOR_BYTES
    torn = longer[:hole] + bytes(len(longer) - hole)
    if torn != longer:
        assert decode_journal(torn).payloads == tuple(payloads)


@given(st.lists(st.tuples(st.integers(0, 1500), st.booleans()), max_size=8), st.data())
def test_a_loss_of_power_leaves_all_that_was_flushed_and_is_never_corruption(
    records: list[tuple[int, bool]], draw: st.DataObject
) -> None:
    """Any sectors that were written since the last flush may be missing."""
    data, payloads, flushed, flushed_records = b"", [], 0, 0
    for number, (size, sync) in enumerate(records, 1):
        payloads.append(bytes([number]) * size)
        data += encode_record(payloads[-1], follows_flush=flushed == len(data))
        if sync:
            flushed, flushed_records = len(data), number
    left = bytearray(data + bytes(4 * SECTOR_BYTES - len(data) % SECTOR_BYTES))
    for sector in range(flushed // SECTOR_BYTES, len(left) // SECTOR_BYTES):
        if draw.draw(st.booleans()):
            begin = max(flushed, sector * SECTOR_BYTES)
            end = (sector + 1) * SECTOR_BYTES
            left[begin:end] = bytes(end - begin)
    journaled = decode_journal(bytes(left))
    assert journaled.payloads == tuple(payloads[: len(journaled.payloads)])
    assert len(journaled.payloads) >= flushed_records


def test_a_missing_sector_of_what_was_flushed_is_corruption() -> None:
    damaged = encode_record(b"first") + bytes(12 + 6) + encode_record(b"third")
    with pytest.raises(JournalCorruptError, match="it had been flushed"):
        decode_journal(damaged)


def test_the_error_says_where_the_damage_begins() -> None:
    first = encode_record(b"first")
    damaged = bytearray(first + encode_record(b"second") + encode_record(b"third"))
    damaged[len(first) + 14] ^= 0xFF
    with pytest.raises(JournalCorruptError, match=f"byte {len(first)}") as corruption:
        decode_journal(bytes(damaged))
    assert corruption.value.offset == len(first)


def test_a_record_too_large_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        encode_record(bytes(RECORD_BYTES_MAX + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(CorruptError):
        assert decode_journal(data).whole_bytes <= len(data)
