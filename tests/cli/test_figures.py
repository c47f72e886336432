"""Figures are rounded to what a person wants to read."""

import pytest

from godwit.pictures import figures


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (4096, "4.0 KiB"), (150 * 2**20, "150 MiB")],
)
def test_sizes(size_bytes: int, told: str) -> None:
    assert figures.size(size_bytes) == told


@pytest.mark.parametrize(
    ("duration_ns", "told"),
    [(0, "0 ns"), (1500, "1.5 µs"), (12_345_678, "12.3 ms"), (90 * 10**9, "1.5 min")],
)
def test_durations(duration_ns: int, told: str) -> None:
    assert figures.duration(duration_ns) == told


def test_rates_are_in_bits() -> None:
    assert figures.rate(1.25e9) == "10.0 Gbit/s"
    assert figures.rate(0.0) == "0 bit/s"


def test_one_is_singular() -> None:
    assert figures.count(1, "round") == "1 round"
    assert figures.count(12345, "page") == "12,345 pages"
