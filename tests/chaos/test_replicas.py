"""More than one of those of which one would do: three nats-servers, two coordinators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from arena import Arena, Setting
from cells import Cell, Fault, Party, Result, run_cell
from steps import step

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


@pytest_asyncio.fixture(loop_scope="session")
async def replicated(tmp_path: Path) -> AsyncIterator[Arena]:
    """With three nats-servers."""
    async with Arena.open(tmp_path / "c", Setting.THREE_SERVERS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("fault", "key"), [(Fault.KILL, "d2"), (Fault.STOP_SHORT, "s11"), (Fault.STOP_SHORT, "c6")]
)
async def test_two_coordinators_end_a_migration_once(arena: Arena, fault: Fault, key: str) -> None:
    """That each decision stands once is the verifier's to see."""
    async with arena.second_coordinator():
        outcome = await run_cell(arena, Cell(Party.ONE_OF_TWO, fault, step(key)))
    assert outcome.result is Result.MOVED, outcome


async def test_a_streams_leader_is_killed_during_the_stun(replicated: Arena) -> None:
    """For 4 to 7 s the register takes nothing. Then the machine runs on one host."""
    outcome = await run_cell(replicated, Cell(Party.REGISTER_LEADER, Fault.KILL, step("s10")))
    assert outcome.result in (Result.MOVED, Result.STAYED), outcome
