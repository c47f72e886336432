"""``godwit migrate --dry-run`` on a cluster: what it says is what happens."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from godwit_protocol import subjects
from godwit_protocol.events.migration import Outcome
from operations import Operations

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

GODWIT = Path(sys.executable).with_name("godwit")
MEMHOG = "godwit.guests.memhog:Memhog"


async def dry_run(operations: Operations, name: str, to: str) -> tuple[int, dict[str, Any]]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GODWIT_")}
    process = await asyncio.create_subprocess_exec(
        *(GODWIT, "migrate", name, "--to", to, "--dry-run", "--json"),
        env={**ours, "GODWIT_DIR": str(operations.cluster.directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out, err.decode()
    assert process.returncode is not None
    return process.returncode, json.loads(out)


async def migrations(operations: Operations) -> int:
    log = operations.log
    return len([1 async for _ in log.read(subjects.whole_migration("*"))])


async def test_a_dry_run_says_what_a_move_then_does(operations: Operations, name: str) -> None:
    await operations.start(name, MEMHOG, vgpus=["H100XM-20C"])
    big = f"{name}-big"
    await operations.start(big, MEMHOG, "host-3", vgpus=["7g.80gb"])
    before = await migrations(operations)
    status, fits = await dry_run(operations, name, "host-2")
    assert (status, fits["movable"]) == (0, True), fits
    refused, full = await dry_run(operations, name, "host-3")
    assert (refused, full["movable"]) == (5, False)
    assert [v["check"] for v in full["verdicts"] if v["status"] != "ok"] == ["profile_available"]
    assert len(full["verdicts"]) == len(fits["verdicts"])
    assert await migrations(operations) == before
    assert (await operations.record(name)).owner == "host-1"
    assert (await operations.migrate(name, "host-3")).outcome is Outcome.ABORTED
    moved = await operations.migrate(name, "host-2")
    assert moved.outcome is Outcome.COMPLETED, moved.message
    for machine in (name, big):
        await operations.stop(machine)
