"""The bench's scripts run, small, and say what they found; figures are not judged here."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import calls
import compression
import content
import guest_share
import idle_move
import pytest
import pytest_asyncio
import records
import service_memory
import stuns
import tables
import watched_register
import watchers
import writing_move
from moves import Lab

from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

Measure = Callable[[Lab], Awaitable[Any]]


async def watched(there: Lab) -> records.Record:
    async with watchers.audience(there.cluster.nats_url, 5) as audience:
        return await watchers.measure(there, audience, os.getpid(), 32, 1, moves=1)


async def registers_watched(_there: Lab) -> records.Record:
    """On a server of their own: no service knows of what is written there."""
    async with watched_register.watched_server(5) as (log, audience):
        return await watched_register.measure(log, audience, 1)


async def calls_counted(_there: Lab) -> records.Record:
    """By services of their own, which count."""
    async with calls.counting_lab() as (there, folder):
        return await calls.measure(there, folder, 32, 1)


SCRIPTS: dict[str, Measure] = {
    "idle_move": lambda there: idle_move.measure(there, 32, 1, 0),
    "writing_move": lambda there: writing_move.measure(there, 32, 1, qemu=False),
    "guest_share": lambda there: guest_share.measure(there, 64, 1, 0.2),
    "service_memory": lambda there: service_memory.measure(there, 32, 1),
    "content": lambda there: content.measure(there, 32, 1),
    "watchers": watched,
    "watched_register": registers_watched,
    "compression": lambda there: compression.measure(there, there, 4, 1),
    "stuns": lambda there: stuns.measure(there, 32, 1, qemu=False),
    "calls": calls_counted,
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def there(operations: Operations) -> AsyncIterator[Lab]:
    yield Lab(operations.log, operations.cluster)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_script_measures_and_its_table_goes_into_a_page(
    there: Lab, script: str, tmp_path: Path
) -> None:
    record = await SCRIPTS[script](there)
    for row in record.rows:
        assert row.ours
        assert all(value > 0 for value in row.ours) or row.measure.startswith("more of"), row
        assert len(row.theirs) in (0, len(row.ours))
    records.tell(record, tmp_path / f"{script}.json")
    page = f"before\n<!-- bench: {script} -->\nold\n<!-- end of bench -->\nafter"
    told = tables.renewed(page, tmp_path)
    assert "old" not in told
    assert f"bench/{script}.py" in told
    assert told.count("\n|") == 2 + len(record.rows)
    assert tables.renewed(told, tmp_path) == told
    assert tables.renewed(page, tmp_path / "elsewhere") == page
    kept = json.loads((tmp_path / f"{script}.json").read_text())
    assert [row["ours"] for row in kept["rows"]] == [list(row.ours) for row in record.rows]
