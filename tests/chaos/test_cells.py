"""A representative part of the matrix. All of it: ``make chaos``."""

from __future__ import annotations

import pytest
from arena import Arena
from cells import Cell, Fault, Party, Result, run_cell
from steps import step

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

CELLS = [
    (Party.COORDINATOR, Fault.KILL, "d2", Result.MOVED),
    (Party.TRACKER, Fault.KILL, "s10", Result.MOVED),
    (Party.SOURCE, Fault.KILL, "s6", Result.STAYED),
    (Party.SOURCE, Fault.KILL, "s10", Result.STAYED),
    (Party.SOURCE, Fault.KILL, "d9", Result.MOVED),
    (Party.SOURCE, Fault.KILL, "s12", Result.MOVED),
    (Party.DESTINATION, Fault.KILL, "s2", Result.STAYED),
    (Party.DESTINATION, Fault.KILL, "d6", Result.STAYED),
    (Party.DESTINATION, Fault.KILL, "d7", Result.STAYED),
    (Party.DESTINATION, Fault.KILL, "d10", Result.MOVED),
    (Party.NATS, Fault.KILL, "d9", Result.MOVED),
    (Party.DESTINATION_VMM, Fault.KILL, "d8", Result.STAYED),
    (Party.SOURCE_VMM, Fault.KILL, "s10", Result.MOVED),
    (Party.SOURCE_VMM, Fault.KILL, "s5", Result.DEAD),
    (Party.COORDINATOR, Fault.KILL, "c2", Result.MOVED),
    (Party.COORDINATOR, Fault.KILL, "c8", Result.MOVED),
    (Party.COORDINATOR, Fault.KILL, "c11", Result.MOVED),
    (Party.NATS, Fault.KILL, "c6", Result.MOVED),
    (Party.TRACKER, Fault.KILL, "t2", Result.MOVED),
    (Party.TRACKER, Fault.KILL, "t7", Result.MOVED),
    (Party.COORDINATOR, Fault.KILL, "x1", Result.STAYED),
    (Party.SOURCE, Fault.KILL, "x3", Result.STAYED),
    (Party.DESTINATION, Fault.KILL, "x5", Result.STAYED),
    (Party.SOURCE, Fault.KILL, "b2", Result.STAYED),
    (Party.NATS, Fault.KILL, "b3", Result.STAYED),
    (Party.SOURCE_VMM, Fault.KILL, "b4", Result.DEAD),
    (Party.SOURCE, Fault.KILL, "r2", Result.STAYED),
    (Party.DESTINATION, Fault.KILL, "r3", Result.STAYED),
]


@pytest.mark.parametrize(
    ("party", "fault", "key", "expected"),
    CELLS,
    ids=[f"{party.name.lower()}-{fault.name.lower()}-{key}" for party, fault, key, _ in CELLS],
)
async def test_a_cell(arena: Arena, party: Party, fault: Fault, key: str, expected: Result) -> None:
    outcome = await run_cell(arena, Cell(party, fault, step(key)))
    assert outcome.result is expected, outcome.detail
