"""A representative part of the cells that cut wires or fill disks, and of those that stop a process
for longer or shorter than a link may be silent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import wires
from arena import Arena
from cells import Cell, Fault, Party, Result, run_cell
from steps import step

pytestmark = [
    *(pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)),
    pytest.mark.skipif(not wires.is_possible(), reason="namespaces and mounts need root"),
]

CELLS = [
    (Party.LINK, Fault.CUT, "s10", Result.STAYED),
    (Party.LINK_FROM_DESTINATION, Fault.CUT, "s10", Result.MOVED),
    (Party.LOG_OF_SOURCE, Fault.CUT, "s4", Result.STAYED),
    (Party.DISK_OF_SOURCE, Fault.KILL_FULL, "s8", Result.STAYED),
    (Party.DISK_OF_DESTINATION, Fault.FULL, "d9", Result.MOVED),
    (Party.DESTINATION_VMM, Fault.STOP_LONG, "d10", Result.MOVED),
    (Party.SOURCE, Fault.STOP_SHORT, "s8", Result.MOVED),
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def wired_arena(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Arena]:
    """As ``arena``, with a link, ways to the log, and journal disks of the hosts' own."""
    async with Arena.open(tmp_path_factory.mktemp("wired") / "c", wired=True) as opened:
        yield opened


@pytest.mark.parametrize(
    ("party", "fault", "key", "expected"),
    CELLS,
    ids=[f"{party.name.lower()}-{fault.name.lower()}-{key}" for party, fault, key, _ in CELLS],
)
async def test_a_wired_cell(
    wired_arena: Arena, party: Party, fault: Fault, key: str, expected: Result
) -> None:
    outcome = await run_cell(wired_arena, Cell(party, fault, step(key)))
    assert outcome.result is expected, outcome.detail
