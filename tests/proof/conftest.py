"""What the searches that must find nothing take together: they are to stay under a minute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from godwit.proof.checker.search import Report

TRANSITIONS_MAX = 4_000_000
"""The same on every machine. One processor does 80,000 to 100,000 a second."""
SECONDS_MAX = 120.0
"""Of the processor: twice the minute, for a machine that is half as fast."""


@pytest.fixture(scope="session")
def clean() -> Iterator[list[Report]]:
    """The reports of the searches that must find nothing; added up at the end of the session."""
    reports: list[Report] = []
    yield reports
    transitions = sum(report.transitions for report in reports)
    seconds = sum(report.seconds for report in reports)
    told = f"{len(reports)} searches that must find nothing: {transitions} steps, {seconds:.1f} s"
    print(told)
    assert transitions <= TRANSITIONS_MAX, told
    assert seconds <= SECONDS_MAX, told
