"""Figures are rounded to what a person wants to read."""

from datetime import datetime

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


def test_a_day_is_told_before_its_first_line() -> None:
    noon = datetime(2026, 11, 23, 12).timestamp() * 1e9
    days, next_day = figures.Days(), int(noon) + 24 * 3600 * 10**9
    lines = [days.dated(at, "x") for at in (int(noon), int(noon) + 1, next_day, int(noon))]
    assert lines == ["2026-11-23\nx", "x", "2026-11-24\nx", "2026-11-23\nx"]
    assert figures.Days("2026-11-23").dated(int(noon), "x") == "x"


def test_one_is_singular() -> None:
    assert figures.count(1, "round") == "1 round"
    assert figures.count(12345, "page") == "12,345 pages"
