from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.errors import InvalidInputError
from godwit_protocol.quantities import (
    QUANTITY_MAX,
    QuantityError,
    format_duration_ns,
    format_rate,
    format_size,
    parse_duration_ns,
    parse_rate,
    parse_size,
)

quantities = st.integers(0, QUANTITY_MAX)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("256MiB", 256 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("80GB", 80 * 10**9),
        ("2TiB", 2**41),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [("5Gbit", 625_000_000), ("5Gbit/s", 625_000_000), ("100MiB/s", 100 * 2**20), ("8bit", 1)],
)
def test_rates(text: str, bytes_per_second: int) -> None:
    assert parse_rate(text) == bytes_per_second


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [("500ms", 500_000_000), ("1.5s", 1_500_000_000), ("10m", 600 * 10**9), ("0s", 0)],
)
def test_durations(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text) == duration_ns


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1MiB", "1 MiB", "1e3", "1mib", "0.3B", "9999999999TiB", "٣MiB", "1MiB\n"]
)
def test_what_is_no_size_is_refused_and_named(text: str) -> None:
    with pytest.raises(QuantityError) as refusal:
        parse_size(text)
    assert refusal.value.text == text
    assert refusal.value.hint


@pytest.mark.parametrize("text", ["10", "1.5", "10 s", "5Gbit", "1.0000000001s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_duration_ns(text)


@pytest.mark.parametrize("text", ["10", "5G", "1bit", "5Gbit/h"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_rate(text)


@given(quantities)
def test_sizes_are_read_back_as_written(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.integers(0, QUANTITY_MAX // 8))
def test_rates_are_read_back_as_written(bytes_per_second: int) -> None:
    assert parse_rate(format_rate(bytes_per_second)) == bytes_per_second


@given(quantities)
def test_durations_are_read_back_as_written(duration_ns: int) -> None:
    assert parse_duration_ns(format_duration_ns(duration_ns)) == duration_ns


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_typed_refusal(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration_ns):
        with contextlib.suppress(InvalidInputError):
            assert parse(text) >= 0
